CREATE TABLE cognitive.jobs (
    id uuid PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    principal text NOT NULL,
    space text COLLATE "C" NOT NULL,
    state smallint NOT NULL,
    report jsonb NOT NULL,
    error text NOT NULL DEFAULT '',
    cancel_requested boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    lease_until timestamptz,
    request_id uuid,
    request_digest bytea,
    UNIQUE (tenant, request_id)
);
CREATE INDEX jobs_by_tenant ON cognitive.jobs (tenant, id DESC);
CREATE INDEX jobs_open ON cognitive.jobs (id) WHERE state <= 2;
