"""Secrets of API keys: any text may be sent as one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mnemo_gateway.domain.api_key import ApiKey, hash_secret, key_id_of, new_secret
from mnemocore.ids import ApiKeyId, Tenant, is_uuid

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY_IDS = st.uuids().map(lambda uuid: ApiKeyId(str(uuid)))
NEARLY = st.builds(
    "{}_{}_{}".format,
    st.sampled_from(["mnemo", "Mnemo", "", "mnemo "]),
    st.text("0123456789abcdefABCDEF-+ {}_x\u0661\uff11", min_size=30, max_size=34) | st.text(max_size=40),
    st.text(max_size=5),
)


@given(st.text(alphabet=st.characters()) | NEARLY)
def test_any_text_has_an_id_or_none(text: str) -> None:
    found = key_id_of(text)
    assert found is None or is_uuid(found)


@given(KEY_IDS)
def test_a_secret_names_its_key(key_id: ApiKeyId) -> None:
    secret = new_secret(key_id)
    assert key_id_of(secret) == key_id
    assert secret != new_secret(key_id)
    assert len(secret) == len("mnemo_") + 32 + len("_") + 43


@given(KEY_IDS, st.text(), st.integers(-1, 1))
def test_a_key_admits_its_own_secret_until_its_end(key_id: ApiKeyId, other: str, seconds: int) -> None:
    secret = new_secret(key_id)
    key = ApiKey(key_id, Tenant("acme"), "ada", frozenset(), hash_secret(secret), NOW, NOW)
    moment = NOW + timedelta(seconds=seconds)
    assert key.admits(secret, moment) == (moment < NOW)
    assert not key.admits(other, NOW - timedelta(days=1))
    assert not key.admits(secret[:-1], NOW - timedelta(days=1))
