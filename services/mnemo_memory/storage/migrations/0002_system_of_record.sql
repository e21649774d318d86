-- Only adds: release 0.1 goes on reading and writing beside this one. Its `state` knows 1 (active) and 2 (archived), so a
-- memory that is out of recall for another reason is 2 here and `archived_at`, `superseded_by` and `expires_at` say which.
-- Its `change` knows 1 to 5, so a revision of a newer sort is 5 (published again) there and `action` says which.

ALTER TABLE memory.spaces
    ADD COLUMN owner text NOT NULL DEFAULT '',
    ADD COLUMN policy jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN policy_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN encrypted boolean NOT NULL DEFAULT false,
    ADD COLUMN bytes bigint NOT NULL DEFAULT 0,
    ADD COLUMN media_bytes bigint NOT NULL DEFAULT 0;
CREATE INDEX spaces_erasing ON memory.spaces (uid)
    WHERE policy ->> 'erase_expired_after' IS NOT NULL OR policy ->> 'erase_archived_after' IS NOT NULL;

-- In an encrypted space `content` is empty, `metadata`, `tags`, `actor` and `session` hold names that can only be compared,
-- and `sealed` holds what they stand for. `packed` is the compressed content of a COLD memory. `content_hash` is null in
-- rows that release 0.1 wrote until they are brought up to date.
ALTER TABLE memory.memories
    ADD COLUMN sealed bytea,
    ADD COLUMN packed bytea,
    ADD COLUMN content_hash bytea,
    ADD COLUMN sole boolean NOT NULL DEFAULT false,
    ADD COLUMN bytes integer NOT NULL DEFAULT 0,
    ADD COLUMN words tsvector,
    ADD COLUMN modality smallint NOT NULL DEFAULT 1,
    ADD COLUMN media jsonb,
    ADD COLUMN valid_from timestamptz,
    ADD COLUMN valid_to timestamptz,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN archived_at timestamptz,
    ADD COLUMN provenance jsonb,
    ADD COLUMN supersedes uuid,
    ADD COLUMN superseded_by uuid,
    ADD COLUMN protected boolean NOT NULL DEFAULT false,
    ADD COLUMN alpha double precision NOT NULL DEFAULT 1,
    ADD COLUMN beta double precision NOT NULL DEFAULT 1,
    ADD COLUMN accesses bigint NOT NULL DEFAULT 1,
    ADD COLUMN accessed_at timestamptz,
    ADD COLUMN tier smallint NOT NULL DEFAULT 2;
-- One memory of those that asked to be the only one of their content.
CREATE UNIQUE INDEX memories_sole ON memory.memories (space_uid, content_hash) WHERE sole;
CREATE INDEX memories_by_hash ON memory.memories (space_uid, content_hash);
CREATE INDEX memories_outdated ON memory.memories (space_uid, id) WHERE content_hash IS NULL;
CREATE INDEX memories_expiring ON memory.memories (expires_at) WHERE expires_at IS NOT NULL AND state = 1;
CREATE INDEX memories_ended ON memory.memories (space_uid, updated_at) WHERE state = 2;
CREATE INDEX memories_hot ON memory.memories (space_uid) WHERE tier = 1;
CREATE INDEX memories_by_words ON memory.memories USING gin (words);

ALTER TABLE memory.revisions
    ADD COLUMN sealed bytea,
    ADD COLUMN action smallint;
CREATE INDEX revisions_by_time ON memory.revisions (space_uid, committed_at);

-- Items of a repeatable request that were answered with a memory that was there: their numbers and its id.
ALTER TABLE memory.requests
    ADD COLUMN duplicates jsonb NOT NULL DEFAULT '{}';

CREATE TABLE memory.associations (
    space_uid uuid NOT NULL,
    source uuid NOT NULL,
    target uuid NOT NULL,
    type smallint NOT NULL,
    weight double precision NOT NULL CHECK (weight > 0 AND weight <= 1),
    activations bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    principal text NOT NULL,
    PRIMARY KEY (space_uid, source, target, type),
    FOREIGN KEY (space_uid, source) REFERENCES memory.memories (space_uid, id) ON DELETE CASCADE,
    FOREIGN KEY (space_uid, target) REFERENCES memory.memories (space_uid, id) ON DELETE CASCADE,
    CHECK (source <> target)
);
CREATE INDEX associations_by_target ON memory.associations (space_uid, target, weight DESC, source, type);
CREATE INDEX associations_by_weight ON memory.associations (space_uid, weight DESC, source, target, type);

-- What was uploaded. `memory_id` is null until a memory takes it. Both kinds of data are sealed in an encrypted space.
CREATE TABLE memory.media (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    id uuid NOT NULL,
    mime_type text NOT NULL,
    size bigint NOT NULL,
    sha256 bytea NOT NULL,
    complete boolean NOT NULL DEFAULT false,
    memory_id uuid,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (space_uid, id),
    FOREIGN KEY (space_uid, memory_id) REFERENCES memory.memories (space_uid, id) ON DELETE CASCADE
);
CREATE INDEX media_by_memory ON memory.media (space_uid, memory_id);
CREATE INDEX media_untaken ON memory.media (created_at) WHERE memory_id IS NULL;
CREATE TABLE memory.media_parts (
    space_uid uuid NOT NULL,
    media_id uuid NOT NULL,
    number integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (space_uid, media_id, number),
    FOREIGN KEY (space_uid, media_id) REFERENCES memory.media (space_uid, id) ON DELETE CASCADE
);
ALTER TABLE memory.media_parts ALTER COLUMN data SET STORAGE EXTERNAL;

-- In an encrypted space `agent` and `session` hold names that can only be compared, in these three tables; what they and the
-- empty columns stand for is sealed. `position` grows with every push; the lowest leaves first.
CREATE TABLE memory.working_items (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    id uuid NOT NULL,
    agent text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    item json,
    sealed bytea,
    content_hash bytea NOT NULL,
    protected boolean NOT NULL,
    accesses bigint NOT NULL,
    position bigint NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (space_uid, id),
    UNIQUE (space_uid, agent, session, content_hash)
);
CREATE INDEX working_items_by_position ON memory.working_items (space_uid, agent, session, position);
CREATE INDEX working_items_expiring ON memory.working_items (expires_at, id) WHERE expires_at IS NOT NULL;

CREATE TABLE memory.sessions (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    session text COLLATE "C" NOT NULL,
    agent text COLLATE "C" NOT NULL,
    metadata json,
    sealed bytea,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    number bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (space_uid, session)
);
CREATE INDEX sessions_by_number ON memory.sessions (space_uid, number DESC);
-- `body` is the state and the working memory, `sealed_label` and `sealed_body` what an encrypted space holds instead.
CREATE TABLE memory.checkpoints (
    space_uid uuid NOT NULL,
    session text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    label text NOT NULL,
    sealed_label bytea,
    body json,
    sealed_body bytea,
    working_items integer NOT NULL,
    revision bigint NOT NULL,
    created_at timestamptz NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (space_uid, session, id),
    FOREIGN KEY (space_uid, session) REFERENCES memory.sessions (space_uid, session) ON DELETE CASCADE
);
CREATE INDEX checkpoints_by_number ON memory.checkpoints (space_uid, session, number DESC);

-- Spaces shared with principals. `accepted_as` is the name under which another tenant sees the space. `sealed` are the tags
-- of a grant in an encrypted space, where `tags` is empty.
CREATE TABLE memory.grants (
    id uuid PRIMARY KEY,
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    tenant text COLLATE "C" NOT NULL,
    principal text COLLATE "C" NOT NULL,
    role smallint NOT NULL,
    kinds smallint[] NOT NULL,
    tags text[] NOT NULL,
    sealed bytea,
    expires_at timestamptz,
    created_at timestamptz NOT NULL,
    grantor text NOT NULL,
    accepted_as text COLLATE "C",
    number bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX grants_by_space ON memory.grants (space_uid, number);
CREATE INDEX grants_by_principal ON memory.grants (tenant, principal, number);
CREATE INDEX grants_expiring ON memory.grants (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX grants_accepted ON memory.grants (tenant, principal, accepted_as) WHERE accepted_as IS NOT NULL;

-- The keys of encrypted spaces, each encrypted with a master key. `purpose` is 1 for data keys, of which the newest seals and
-- all open, and 2 for the one with which names are made that can be compared. `republished_revision` is the revision up to
-- which the space was published again after the key became the newest; null until then.
CREATE TABLE memory.space_keys (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    key_id uuid NOT NULL,
    purpose smallint NOT NULL,
    master_key_id text COLLATE "C" NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL,
    republished_revision bigint,
    number bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (space_uid, key_id)
);
CREATE INDEX space_keys_by_master ON memory.space_keys (master_key_id, number);

-- Nothing is sealed with a key that does not exist, and no key is dropped while somebody seals with it: sealed bytes name
-- their key in bytes 2 to 17, and who writes them holds its row until the end of the transaction. The argument is the column.
CREATE FUNCTION memory.hold_sealing_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sealing_key bytea;
BEGIN
    CASE TG_ARGV[0]
        WHEN 'sealed' THEN sealing_key := substring(NEW.sealed FROM 2 FOR 16);
        WHEN 'sha256' THEN sealing_key := substring(NEW.sha256 FROM 2 FOR 16);
        WHEN 'sealed_label' THEN sealing_key := substring(NEW.sealed_label FROM 2 FOR 16);
        WHEN 'sealed_body' THEN sealing_key := substring(NEW.sealed_body FROM 2 FOR 16);
        WHEN 'data' THEN
            IF NOT (SELECT encrypted FROM memory.spaces WHERE uid = NEW.space_uid) THEN
                RETURN NEW;
            END IF;
            sealing_key := substring(NEW.data FROM 2 FOR 16);
    END CASE;
    PERFORM FROM memory.space_keys WHERE space_uid = NEW.space_uid AND purpose = 1
        AND uuid_send(key_id) = sealing_key FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a row is sealed with a key that its space does not have'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sealed_with_a_key_of_the_space';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER hold_key_of_sealed BEFORE INSERT OR UPDATE OF sealed ON memory.memories
    FOR EACH ROW WHEN (NEW.sealed IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed');
CREATE TRIGGER hold_key_of_sealed BEFORE INSERT OR UPDATE OF sealed ON memory.revisions
    FOR EACH ROW WHEN (NEW.sealed IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed');
CREATE TRIGGER hold_key_of_sha256 BEFORE INSERT OR UPDATE OF sha256 ON memory.media
    FOR EACH ROW WHEN (length(NEW.sha256) > 32) EXECUTE FUNCTION memory.hold_sealing_key('sha256');
CREATE TRIGGER hold_key_of_data BEFORE INSERT OR UPDATE OF data ON memory.media_parts
    FOR EACH ROW EXECUTE FUNCTION memory.hold_sealing_key('data');
CREATE TRIGGER hold_key_of_sealed BEFORE INSERT OR UPDATE OF sealed ON memory.working_items
    FOR EACH ROW WHEN (NEW.sealed IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed');
CREATE TRIGGER hold_key_of_sealed BEFORE INSERT OR UPDATE OF sealed ON memory.sessions
    FOR EACH ROW WHEN (NEW.sealed IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed');
CREATE TRIGGER hold_key_of_sealed BEFORE INSERT OR UPDATE OF sealed ON memory.grants
    FOR EACH ROW WHEN (NEW.sealed IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed');
CREATE TRIGGER hold_key_of_sealed_label BEFORE INSERT OR UPDATE OF sealed_label ON memory.checkpoints
    FOR EACH ROW WHEN (NEW.sealed_label IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed_label');
CREATE TRIGGER hold_key_of_sealed_body BEFORE INSERT OR UPDATE OF sealed_body ON memory.checkpoints
    FOR EACH ROW WHEN (NEW.sealed_body IS NOT NULL) EXECUTE FUNCTION memory.hold_sealing_key('sealed_body');

-- What is sealed with which key.
CREATE INDEX memories_by_key ON memory.memories (space_uid, substring(sealed FROM 2 FOR 16))
    WHERE sealed IS NOT NULL;
CREATE INDEX revisions_by_key ON memory.revisions (space_uid, substring(sealed FROM 2 FOR 16))
    WHERE sealed IS NOT NULL;
CREATE INDEX media_by_key ON memory.media (space_uid, substring(sha256 FROM 2 FOR 16))
    WHERE length(sha256) > 32;
CREATE INDEX media_parts_by_key ON memory.media_parts (space_uid, substring(data FROM 2 FOR 16));
CREATE INDEX working_items_by_key ON memory.working_items (space_uid, substring(sealed FROM 2 FOR 16))
    WHERE sealed IS NOT NULL;
CREATE INDEX sessions_by_key ON memory.sessions (space_uid, substring(sealed FROM 2 FOR 16))
    WHERE sealed IS NOT NULL;
CREATE INDEX grants_by_key ON memory.grants (space_uid, substring(sealed FROM 2 FOR 16))
    WHERE sealed IS NOT NULL;
CREATE INDEX checkpoints_by_key_of_label ON memory.checkpoints (space_uid, substring(sealed_label FROM 2 FOR 16))
    WHERE sealed_label IS NOT NULL;
CREATE INDEX checkpoints_by_key_of_body ON memory.checkpoints (space_uid, substring(sealed_body FROM 2 FOR 16))
    WHERE sealed_body IS NOT NULL;

-- Receipts of erased spaces. The relay tells the log; `log_erased_at` is null until it has.
CREATE TABLE memory.erasures (
    id uuid PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    space_uid uuid NOT NULL UNIQUE,
    principal text NOT NULL,
    reason text NOT NULL,
    erased_at timestamptz NOT NULL,
    log_erased_at timestamptz,
    revision bigint NOT NULL,
    memories bigint NOT NULL,
    revisions bigint NOT NULL,
    media bigint NOT NULL,
    associations bigint NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX erasures_by_tenant ON memory.erasures (tenant, number DESC);
CREATE INDEX erasures_unpublished ON memory.erasures (number) WHERE log_erased_at IS NULL;
