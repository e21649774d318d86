-- HTTP endpoints that are sent events. Secrets are encrypted with master keys that are not in the database.
CREATE TABLE events.webhooks (
    uid uuid PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    url text NOT NULL,
    types text[] NOT NULL,
    subjects text[] NOT NULL,
    space_uid uuid,
    description text NOT NULL,
    master_key_id text NOT NULL,
    secret bytea NOT NULL,
    former_master_key_id text,
    former_secret bytea,
    former_until timestamptz,
    owner text NOT NULL,
    owner_is_admin boolean NOT NULL,
    state smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
    pause_reason text NOT NULL,
    failures integer NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (tenant, id)
);

-- What was sent to them lately.
CREATE TABLE events.webhook_deliveries (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_uid uuid NOT NULL REFERENCES events.webhooks (uid) ON DELETE CASCADE,
    position bigint NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL,
    seconds double precision NOT NULL,
    status integer NOT NULL,
    delivered boolean NOT NULL,
    error text NOT NULL
);
CREATE INDEX webhook_deliveries_by_webhook ON events.webhook_deliveries (webhook_uid, number);
CREATE INDEX webhook_deliveries_by_time ON events.webhook_deliveries (at);
