CREATE TABLE gateway.api_keys (
    id uuid PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    principal text NOT NULL,
    scopes text[] NOT NULL,
    secret_hash bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_keys_by_tenant ON gateway.api_keys (tenant, id);
