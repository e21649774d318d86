"""What proves that a delivery is ours, and the form of its body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_embedded.webhook_key import master_keys_file
from mnemo_events.domain.event import Event, StoredEvent
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.signature import signature
from mnemo_events.domain.webhook_secrets import WebhookSecrets, check_secret
from mnemo_events.domain.webhooks import Draft
from mnemo_events.wire.cloud_events import CloudEvents, to_cloud_event
from mnemocore.client.signatures import verify_signature
from mnemocore.errors import InvalidFieldError, KeyUnavailableError
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.master_keys import FixedMasterKeys, parse
from mnemocore.sealing import MasterKey, MasterKeys

SECRET = "a secret of some length"
OTHER = "another secret, as long"
EVENT = Event(
    id="018f0000-0000-7000-8000-000000000001",
    source="mnemocore/memory",
    type="memory.created",
    subject="spaces/alice/memories/1",
    time=datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC),
    datacontenttype="application/json",
    dataschema="https://example.org/schema",
    data=b'{"a": 1}',
    tenant=Tenant("acme"),
    space_uid=SpaceUid("018f0000-0000-7000-8000-00000000000a"),
    revision=2**53 + 1,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    correlation_id="job 7",
    causation_id="cause",
)
STORED = StoredEvent(2**60 + 1, EVENT, EVENT.time)


def test_the_signature_is_what_the_contract_says() -> None:
    body = '{"a":"\u00fc"}'.encode()
    expected = hmac.new(SECRET.encode(), b"1700000000." + body, hashlib.sha256).hexdigest()
    assert signature([SECRET], body, 1_700_000_000) == f"t=1700000000,v1={expected}"


@given(st.text(min_size=16, max_size=40), st.binary(max_size=200), st.integers(0, 2**33))
def test_receivers_believe_it_and_nothing_else(secret: str, body: bytes, at: int) -> None:
    header = signature([secret], body, at)
    assert verify_signature(secret, header, body, now=at)
    assert not verify_signature(secret + "x", header, body, now=at)
    assert not verify_signature(secret, header, body + b"x", now=at)
    assert not verify_signature(secret, header.replace(f"t={at}", f"t={at + 1}"), body, now=at)


def test_two_secrets_sign_both() -> None:
    header = signature([SECRET, OTHER], b"{}", 1_700_000_000)
    for secret in (SECRET, OTHER):
        assert verify_signature(secret, header, b"{}", now=1_700_000_000)
    assert header.count("v1=") == 2


def test_an_event_has_all_its_attributes() -> None:
    assert json.loads(to_cloud_event(STORED)) == {
        "specversion": "1.0",
        "id": EVENT.id,
        "source": "mnemocore/memory",
        "type": "memory.created",
        "subject": "spaces/alice/memories/1",
        "time": "2026-02-03T04:05:06.789012Z",
        "datacontenttype": "application/json",
        "dataschema": "https://example.org/schema",
        "correlationid": "job 7",
        "causationid": "cause",
        "traceparent": EVENT.traceparent,
        "tenant": "acme",
        "spaceuid": EVENT.space_uid,
        "revision": str(2**53 + 1),
        "position": str(2**60 + 1),
        "data": {"a": 1},
    }


def test_what_has_no_value_is_left_out() -> None:
    bare = replace(
        EVENT,
        subject="",
        datacontenttype="",
        dataschema="",
        data=b"",
        space_uid=SpaceUid(""),
        revision=0,
        traceparent="",
        correlation_id="",
        causation_id="",
        time=datetime(2026, 2, 3, 6, 5, tzinfo=timezone(timedelta(hours=2))),
    )
    assert json.loads(to_cloud_event(StoredEvent(0, bare, bare.time))) == {
        "specversion": "1.0",
        "id": EVENT.id,
        "source": "mnemocore/memory",
        "type": "memory.created",
        "time": "2026-02-03T04:05:00Z",
        "tenant": "acme",
    }


def test_names_of_attributes_are_those_that_cloud_events_allows() -> None:
    assert all(name.isalnum() and name == name.lower() for name in json.loads(to_cloud_event(STORED)) if name != "data")


@pytest.mark.parametrize("schema", ["mnemocore.memory.v1.Revision", "schemas/order.placed/versions/2"])
def test_the_schema_is_a_uri(schema: str) -> None:
    written = json.loads(to_cloud_event(replace(STORED, event=replace(EVENT, dataschema=schema))))
    assert written["dataschema"] == f"urn:mnemocore:schema:{schema}"


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("application/json", b'{"n": 1e400, "big": 123456789012345678901234567890, "n": 0.1000}'),
        ("application/json; charset=utf-8", ' [1, "\u00fc\u2028", null] '.encode()),
        ("Application/JSON", b'"\\ud800"'),
        ("application/vnd.orders+json", b"true"),
        ("text/json", b"0"),
    ],
)
def test_json_stands_as_it_is(media_type: str, data: bytes) -> None:
    written = to_cloud_event(replace(STORED, event=replace(EVENT, datacontenttype=media_type, data=data)))
    assert b',"data":' + data + b"}" in written
    assert "data" in json.loads(written)


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("application/protobuf", b"\x08\x01\xff"),
        ("", b"{}"),
        ("text/plain", b"{}"),
        ("application/json", b"{"),
        ("application/json", b"NaN"),
        ("application/json", b"[-Infinity]"),
        ("application/json", b'"\xff"'),
        ("application/json", b"\xef\xbb\xbf{}"),
        ("application/json", b'{}, "position": "1"'),
        ("application/json", b"[" * 100_000 + b"]" * 100_000),
    ],
)
async def test_what_is_no_json_is_base64(media_type: str, data: bytes) -> None:
    event = replace(EVENT, datacontenttype=media_type, data=data)
    written = json.loads(await CloudEvents().write(replace(STORED, event=event)))
    assert base64.b64decode(written["data_base64"]) == data
    assert "data" not in written


@pytest.mark.parametrize("secret", ["x" * 16, "x" * 256, "\u00fc" * 16, "with spaces in between"])
def test_secrets_that_are_allowed(secret: str) -> None:
    assert check_secret(secret) == secret


@pytest.mark.parametrize("secret", ["", "x" * 15, "x" * 257, "x" * 16 + "\x00", "x" * 16 + "\n"])
def test_secrets_that_are_not(secret: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_secret(secret)
    assert not secret or secret not in str(caught.value)
    assert caught.value.metadata["field"] == "webhook.secret"


def vault(*ids: str) -> WebhookSecrets:
    return WebhookSecrets(FixedMasterKeys(MasterKeys([MasterKey(id, id.encode().ljust(32)) for id in ids])))


async def test_a_secret_opens_for_its_own_webhook_with_its_own_key() -> None:
    sealed = await vault("new", "old").seal("one", SECRET)
    assert sealed.master_key_id == "new"
    assert SECRET.encode() not in sealed.sealed
    assert "sealed=" not in repr(sealed)
    assert await vault("other", "new").open("one", sealed) == SECRET
    for opener, uid in ((vault("new"), "two"), (vault("old"), "one"), (vault(), "one")):
        with pytest.raises(KeyUnavailableError):
            await opener.open(uid, sealed)
    with pytest.raises(KeyUnavailableError):
        await vault("new").open("one", replace(sealed, sealed=sealed.sealed[:-1] + b"?"))


async def test_another_current_key_seals_anew() -> None:
    sealed = await vault("old").seal("one", SECRET)
    assert await vault("old", "new").renewed("one", sealed) is sealed
    renewed = await vault("new", "old").renewed("one", sealed)
    assert renewed.master_key_id == "new"
    assert await vault("new").open("one", renewed) == SECRET


async def test_without_a_master_key_it_is_said_which_setting_is_missing() -> None:
    with pytest.raises(KeyUnavailableError, match="MNEMO_EVENTS_MASTER_KEYS") as caught:
        await vault().seal("one", SECRET)
    assert SECRET not in str(caught.value)


def test_no_value_shows_a_secret() -> None:
    shown: list[Any] = [Draft("https://example.org", Filter(), SECRET, "")]
    assert SECRET not in repr(shown)


def test_a_data_directory_has_a_master_key_of_its_own(tmp_path: Path) -> None:
    path = Path(master_keys_file(tmp_path, {}))
    assert path == tmp_path / "webhooks.key"
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert master_keys_file(tmp_path, {}) == str(path)
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (content, ["webhooks.key"])
    keys = parse(content.decode().splitlines(), "file")
    assert len(keys.ids) == 1
    assert content.split()[1] not in repr(keys).encode()


def test_the_environment_chooses_other_master_keys(tmp_path: Path) -> None:
    assert master_keys_file(tmp_path, {"MNEMO_EVENTS_MASTER_KEYS_FILE": "/a/file"}) == "/a/file"
    assert master_keys_file(tmp_path, {"MNEMO_EVENTS_MASTER_KEYS": "one:two"}) == ""
    assert list(tmp_path.iterdir()) == []
