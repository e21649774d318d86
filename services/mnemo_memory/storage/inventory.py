"""What memory-core's schema holds, in numbers that can be compared: for backups and for those who test them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from asyncpg import Connection, Record

# The digest of a space is a sum, so the order of its memories does not matter. `content_hash` came with 0002.
_SPACES: Final = """
SELECT s.uid::text AS uid, s.tenant, s.slug, {owner} AS owner, {encrypted} AS encrypted, s.revision,
    s.published_revision, s.active, s.archived, count(m.id) AS memories, count(m.id) - count({hash}) AS unhashed,
    (SELECT count(*) FROM memory.revisions r WHERE r.space_uid = s.uid) AS revisions,
    coalesce(sum(('x' || encode(substring(sha256(convert_to(m.id::text || ':' || m.revision || ':'
        || encode(coalesce({hash}, sha256(convert_to(m.content, 'UTF8'))), 'hex'), 'UTF8')) FROM 1 FOR 8), 'hex'))
        ::bit(64)::bigint::numeric), 0)::text AS digest
FROM memory.spaces s LEFT JOIN memory.memories m ON m.space_uid = s.uid GROUP BY s.uid ORDER BY s.uid
"""
_HAS_HASHES: Final = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'memory.memories'::regclass AND attname = 'content_hash')
"""
_SAMPLE: Final = """
SELECT s.tenant, s.slug, s.owner, m.id::text AS id, m.content FROM memory.memories m JOIN memory.spaces s
ON s.uid = m.space_uid WHERE m.state = 1 AND (m.expires_at IS NULL OR m.expires_at > now() + interval '1 hour')
AND m.sealed IS NULL AND m.packed IS NULL AND m.content ~ '[[:alpha:]]{3}'
ORDER BY sha256(convert_to(m.id::text || $2, 'UTF8')) LIMIT $1
"""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A memory that recall must find. `owner` is a principal who may read its space."""

    tenant: Tenant
    slug: str
    owner: str
    id: str
    content: str


async def take(connection: Connection[Record]) -> dict[str, Any]:
    """The store's id; and of each space its uid, tenant, slug, owner, counts, newest revision and a digest.

    The digest is equal for equal memories, by id, revision and content. It works on a schema of any version.
    """
    if await connection.fetchval(_HAS_HASHES):
        query = _SPACES.format(owner="s.owner", encrypted="s.encrypted", hash="m.content_hash")
    else:
        query = _SPACES.format(owner="''", encrypted="false", hash="NULL::bytea")
    return {
        "store_id": str(await connection.fetchval("SELECT store_id FROM memory.store")),
        "spaces": [dict(row) for row in await connection.fetch(query)],
    }


async def sample(connection: Connection[Record], count: int, seed: int) -> list[Sampled]:
    """Up to `count` active memories with words in them that can be read here; the same ones for the same seed."""
    found = await connection.fetch(_SAMPLE, count, hashlib.sha256(str(seed).encode()).hexdigest())
    return [Sampled(Tenant(row["tenant"]), row["slug"], row["owner"], row["id"], row["content"]) for row in found]
