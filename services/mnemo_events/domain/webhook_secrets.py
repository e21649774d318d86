"""The secrets of webhooks: what one may be, and how it is kept, encrypted with a master key that is kept elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemo_events.domain.webhook import SealedSecret
from mnemocore.errors import InvalidFieldError, KeyUnavailableError, Violation

if TYPE_CHECKING:
    from mnemocore.master_keys import MasterKeySource

MASTER_KEYS: Final = "MNEMO_EVENTS_MASTER_KEYS"
"""The variable that holds the master keys; with `_FILE` appended, the one that names a file of them."""
SHORTEST: Final = 16
LONGEST: Final = 256


def check_secret(secret: str, field: str = "webhook.secret") -> str:
    """The secret, if it may be one. Raises InvalidFieldError, which does not show it."""
    if not SHORTEST <= len(secret) <= LONGEST:
        described = f"has {len(secret)} characters; allowed are {SHORTEST} to {LONGEST}"
        raise InvalidFieldError.of([Violation(field, described)])
    if not secret.isprintable():
        raise InvalidFieldError.of([Violation(field, "has a character that is not printable; allowed are none")])
    return secret


class WebhookSecrets:
    """Encrypts secrets with the current master key, opens them with any; each opens for its own webhook only."""

    def __init__(self, master_keys: MasterKeySource) -> None:
        self._master_keys = master_keys

    async def seal(self, uid: str, secret: str) -> SealedSecret:
        """The secret of the webhook `uid`, encrypted. Raises KeyUnavailableError if there is no master key."""
        keys = await self._master_keys.keys()
        if not keys.ids:
            described = f"no master key is configured; webhooks need one in {MASTER_KEYS} or {MASTER_KEYS}_FILE"
            raise KeyUnavailableError(described, key="master")
        return SealedSecret(keys.current.id, keys.current.seal(_subject(uid), secret.encode()))

    async def open(self, uid: str, secret: SealedSecret) -> str:
        """What `seal` was given. Raises KeyUnavailableError if its master key is not here."""
        key = (await self._master_keys.keys()).get(secret.master_key_id)
        return key.open(_subject(uid), secret.sealed).decode()

    async def current_key(self) -> str:
        """The id of the master key that seals; "" if there is none."""
        ids = (await self._master_keys.keys()).ids
        return ids[0] if ids else ""

    async def renewed(self, uid: str, secret: SealedSecret) -> SealedSecret:
        """The same secret, encrypted with the current master key. Raises KeyUnavailableError if it does not open."""
        if secret.master_key_id == await self.current_key():
            return secret
        return await self.seal(uid, await self.open(uid, secret))


def _subject(uid: str) -> str:
    return f"the secret of webhook {uid}"
