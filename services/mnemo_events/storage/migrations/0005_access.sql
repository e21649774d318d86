-- Who may do what with events of a tenant. Actions are numbers of the contract.
CREATE TABLE events.policies (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    principal text COLLATE "C" NOT NULL,
    actions smallint[] NOT NULL,
    types text[] NOT NULL,
    subjects text[] NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, id)
);

-- What was refused, one row for each hour. The digest stands for the target, which may be too long for an index.
CREATE TABLE events.refusals (
    tenant text COLLATE "C" NOT NULL,
    principal text COLLATE "C" NOT NULL,
    action smallint NOT NULL,
    target text NOT NULL,
    target_digest bytea NOT NULL,
    method text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    count bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, hour, principal, action, method, target_digest)
);
CREATE INDEX refusals_newest ON events.refusals (tenant, hour DESC, number DESC);
CREATE INDEX refusals_by_hour ON events.refusals (hour);
