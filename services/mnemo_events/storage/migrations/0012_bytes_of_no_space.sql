-- How many bytes of data the events of no space have: added to by `events.append`, taken from by what empties or deletes
-- rows, also by replicas of an earlier version.
ALTER TABLE events.head ADD COLUMN bytes_of_no_space bigint NOT NULL DEFAULT 0;
UPDATE events.head SET
    bytes_of_no_space = (SELECT coalesce(sum(octet_length(data)), 0) FROM events.log WHERE space_uid IS NULL);

CREATE FUNCTION events.take_bytes_away() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    gone bigint;
BEGIN
    SELECT sum(octet_length(data)) INTO gone FROM before WHERE space_uid IS NULL;
    IF TG_OP = 'UPDATE' THEN
        gone := gone - (SELECT sum(octet_length(data)) FROM after WHERE space_uid IS NULL);
    END IF;
    IF gone > 0 THEN
        UPDATE events.head SET bytes_of_no_space = bytes_of_no_space - gone;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER rows_deleted AFTER DELETE ON events.log REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION events.take_bytes_away();
CREATE TRIGGER rows_changed AFTER UPDATE ON events.log REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION events.take_bytes_away();

-- Appends a batch in one round trip; the caller's keys differ from each other. Returns positions in the order given: of
-- an event that the log has its own; of one whose space has ended that of the end; none for an event that comes after
-- the end of its space in this batch (`ends_before`), which is not appended.
--
-- The head is locked first, by a statement of its own: those that follow see all that was committed before. Plans are
-- made for every call: one that was made while the log was empty may look for a key among all events of its tenant.
CREATE OR REPLACE FUNCTION events.append(
    stored timestamptz, channel text, tenants text[], sources text[], ids text[], types text[], subjects text[],
    times timestamptz[], datacontenttypes text[], dataschemas text[], payloads bytea[], space_uids uuid[],
    revisions bigint[], traceparents text[], correlation_ids text[], causation_ids text[], ends_before boolean[]
) RETURNS bigint[] LANGUAGE plpgsql SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    newest events.head%ROWTYPE;
    places bigint[];
    fresh bigint;
    fresh_of_no_space bigint;
    fresh_bytes bigint;
BEGIN
    SELECT * INTO newest FROM events.head FOR UPDATE;
    stored := greatest(stored, newest.stored_at);
    WITH given AS MATERIALIZED (
        SELECT event.*, coalesce(
            (SELECT position FROM events.log
                WHERE log.tenant = event.tenant AND log.source = event.source AND log.id = event.id),
            (SELECT min(position) FROM events.log
                WHERE log.type = 'space.erased' AND log.space_uid = event.space_uid)
        ) AS known
        FROM unnest(
            tenants, sources, ids, types, subjects, times, datacontenttypes, dataschemas, payloads, space_uids,
            revisions, traceparents, correlation_ids, causation_ids, ends_before
        ) WITH ORDINALITY AS event(
            tenant, source, id, type, subject, occurred_at, datacontenttype, dataschema, data, space_uid,
            revision, traceparent, correlation_id, causation_id, is_after_end, number)
    ), placed AS MATERIALIZED (
        SELECT given.*, known IS NULL AND NOT is_after_end AS is_fresh, coalesce(known, CASE WHEN NOT is_after_end THEN
            newest.position + count(*) FILTER (WHERE known IS NULL AND NOT is_after_end) OVER (ORDER BY number)
        END) AS position
        FROM given
    ), inserted AS (
        INSERT INTO events.log (
            position, tenant, source, id, type, subject, occurred_at, datacontenttype, dataschema, data, space_uid,
            revision, traceparent, correlation_id, causation_id, stored_at)
        SELECT position, tenant, source, id, type, subject, occurred_at, datacontenttype, dataschema, data, space_uid,
            revision, traceparent, correlation_id, causation_id, stored
        FROM placed WHERE is_fresh ORDER BY number
    )
    SELECT array_agg(position ORDER BY number), count(*) FILTER (WHERE is_fresh),
        count(*) FILTER (WHERE is_fresh AND space_uid IS NULL),
        coalesce(sum(octet_length(data)) FILTER (WHERE is_fresh AND space_uid IS NULL), 0)
    INTO places, fresh, fresh_of_no_space, fresh_bytes FROM placed;
    IF fresh > 0 THEN
        UPDATE events.head SET position = newest.position + fresh, stored_at = stored,
            of_no_space = of_no_space + fresh_of_no_space, bytes_of_no_space = bytes_of_no_space + fresh_bytes;
        PERFORM pg_notify(channel, (newest.position + fresh)::text);
    END IF;
    RETURN places;
END
$$;
