-- The newest position. Every append locks this row, so positions follow the order of commit and have no gaps.
CREATE TABLE events.head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO events.head (position) VALUES (0);

CREATE TABLE events.log (
    position bigint PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    subject text NOT NULL,
    occurred_at timestamptz NOT NULL,
    datacontenttype text NOT NULL,
    dataschema text NOT NULL,
    data bytea NOT NULL,
    space_uid uuid,
    revision bigint NOT NULL,
    traceparent text NOT NULL,
    stored_at timestamptz NOT NULL,
    UNIQUE (tenant, source, id)
);
CREATE INDEX log_by_space ON events.log (space_uid, position) WHERE space_uid IS NOT NULL;
CREATE INDEX log_by_tenant ON events.log (tenant, position);
