-- Names this store for ever; consistency tokens carry it.
CREATE TABLE memory.store (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    store_id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO memory.store DEFAULT VALUES;

CREATE TABLE memory.spaces (
    uid uuid PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    slug text COLLATE "C" NOT NULL,
    description text NOT NULL,
    revision bigint NOT NULL DEFAULT 0,
    published_revision bigint NOT NULL DEFAULT 0,
    active bigint NOT NULL DEFAULT 0,
    archived bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    UNIQUE (tenant, slug)
);
CREATE INDEX spaces_unpublished ON memory.spaces (uid) WHERE published_revision < revision;

CREATE TABLE memory.memories (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    id uuid NOT NULL,
    kind smallint NOT NULL,
    content text NOT NULL,
    metadata jsonb NOT NULL,
    tags jsonb NOT NULL,
    actor text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    ordinal bigint,
    occurred_at timestamptz NOT NULL,
    importance double precision NOT NULL,
    confidence double precision NOT NULL,
    state smallint NOT NULL,
    revision bigint NOT NULL,
    created_revision bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (space_uid, id)
);
CREATE INDEX memories_by_creation ON memory.memories (space_uid, created_revision DESC);
CREATE INDEX memories_by_session ON memory.memories (space_uid, session, ordinal) WHERE session <> '';

-- History, audit and outbox in one. `snapshot` is the memory after the change; null once it was erased.
CREATE TABLE memory.revisions (
    space_uid uuid NOT NULL REFERENCES memory.spaces (uid),
    revision bigint NOT NULL,
    memory_id uuid NOT NULL,
    change smallint NOT NULL,
    snapshot json,
    committed_at timestamptz NOT NULL,
    principal text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (space_uid, revision)
);
CREATE INDEX revisions_by_memory ON memory.revisions (space_uid, memory_id, revision);

-- Requests that can be repeated. The outcome is the run of revisions they made.
CREATE TABLE memory.requests (
    tenant text COLLATE "C" NOT NULL,
    request_id uuid NOT NULL,
    digest bytea NOT NULL,
    space_uid uuid NOT NULL,
    first_revision bigint NOT NULL,
    last_revision bigint NOT NULL,
    taken jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX requests_by_age ON memory.requests (created_at);
