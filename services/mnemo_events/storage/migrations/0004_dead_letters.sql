-- Events that consumer groups have given up, with copies of the events. `group_uid` is the engine's name of the group.
CREATE TABLE events.dead_letters (
    group_uid text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    group_id text COLLATE "C" NOT NULL,
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
    correlation_id text NOT NULL,
    causation_id text NOT NULL,
    stored_at timestamptz NOT NULL,
    reason smallint NOT NULL,
    message text NOT NULL,
    attempts int NOT NULL,
    attempts_before int NOT NULL DEFAULT 0,
    replays int NOT NULL DEFAULT 0,
    first_died_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL,
    replaying boolean NOT NULL DEFAULT false,
    PRIMARY KEY (group_uid, position)
);
CREATE INDEX dead_letters_of_groups ON events.dead_letters (tenant, group_id, group_uid);
CREATE INDEX dead_letters_of_events ON events.dead_letters (tenant, source, id);
CREATE INDEX dead_letters_of_spaces ON events.dead_letters (space_uid) WHERE space_uid IS NOT NULL;
CREATE INDEX dead_letters_not_replayed ON events.dead_letters (group_uid, replaying, position);
