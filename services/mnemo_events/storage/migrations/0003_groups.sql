-- Replicas of an earlier version may be at work: they lock the two in this order, and so does whoever changes both.
LOCK TABLE events.head, events.log IN ACCESS EXCLUSIVE MODE;

ALTER TABLE events.log
    ADD COLUMN correlation_id text NOT NULL DEFAULT '',
    ADD COLUMN causation_id text NOT NULL DEFAULT '';
-- What is trimmed, oldest first.
CREATE INDEX log_of_no_space ON events.log (position) WHERE space_uid IS NULL;

-- Times never go back from one position to the next, so that the position of a time is found by bisection.
UPDATE events.log SET stored_at = reached.stored_at
FROM (SELECT position, max(stored_at) OVER (ORDER BY position) AS stored_at FROM events.log) AS reached
WHERE log.position = reached.position AND log.stored_at < reached.stored_at;

-- The time of the event at the head, the newest position that was trimmed, and how many events of no space there are.
ALTER TABLE events.head
    ADD COLUMN stored_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN trimmed bigint NOT NULL DEFAULT 0,
    ADD COLUMN of_no_space bigint NOT NULL DEFAULT 0;
UPDATE events.head SET
    stored_at = coalesce((SELECT max(stored_at) FROM events.log), '-infinity'),
    of_no_space = (SELECT count(*) FROM events.log WHERE space_uid IS NULL);

-- Consumer groups. `position`: everything up to it was given out or put aside, or does not match. Whatever changes a group
-- or what it holds locks its row first. `held_from` and `due_from` are lower bounds: nothing it holds has a lower position,
-- nothing of `held_by_due` is due earlier. So nobody looks at rows that are gone, of which there are many while a backup reads.
CREATE TABLE events.groups (
    uid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    types text[] NOT NULL,
    subjects text[] NOT NULL,
    space_uid uuid,
    max_attempts integer NOT NULL,
    lease interval NOT NULL,
    owner text NOT NULL,
    created_at timestamptz NOT NULL,
    position bigint NOT NULL,
    held_from bigint NOT NULL DEFAULT 0,
    due_from timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00',
    UNIQUE (tenant, id)
) WITH (fillfactor = 50);

-- What groups hold: events that a member has until `due`, and events that wait (member is null) until `due` at least; the
-- first moment there is means at once.
-- `attempt` counts those that were given out, `is_first` says that the group holds no earlier event of the key. Of a key,
-- one member has the earlier ones and the later ones wait.
CREATE TABLE events.held (
    group_uid bigint NOT NULL,
    position bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    is_first boolean NOT NULL,
    member text COLLATE "C",
    due timestamptz NOT NULL,
    attempt integer NOT NULL,
    replayed boolean NOT NULL,
    PRIMARY KEY (group_uid, position)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
CREATE INDEX held_by_key ON events.held (group_uid, key, position) WHERE key <> '';
CREATE INDEX held_waiting ON events.held (group_uid, key, position) WHERE member IS NULL;
CREATE INDEX held_by_member ON events.held (group_uid, member, due) WHERE member IS NOT NULL;
CREATE INDEX held_by_due ON events.held (group_uid, due) WHERE is_first OR member IS NOT NULL;
