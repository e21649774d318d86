-- What events of a type look like. Formats and compatibilities are numbers of the contract; `uid` is never used again.
CREATE TABLE events.schemas (
    tenant text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    uid bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    format smallint NOT NULL,
    definition bytea NOT NULL,
    message_name text NOT NULL,
    compatibility smallint NOT NULL,
    closed boolean NOT NULL,
    description text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, type, version)
);
