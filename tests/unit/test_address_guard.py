"""Where events may be sent, and that they go where was looked."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.webhook_server import Endpoint, endpoint

from mnemo_events.clients.address_guard import RESOLVED_OF_TENANT, AddressGuard, Allowed, SystemResolver, is_public
from mnemo_events.clients.http_sender import MAX_RETRY_AFTER, HttpSender, Limits
from mnemo_events.domain.group import Reason
from mnemo_events.domain.webhook import AddressNotAllowedError, Answer
from mnemocore.errors import InvalidSettingError
from mnemocore.ids import Tenant
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1:248:1893:25c8:1946"
ACME = Tenant("acme")
BODY = json.dumps({"id": "1", "type": "a.b"}).encode()


class Names:
    """A resolver whose answers a test gives; of several answers for a name each is given once, the last for ever."""

    def __init__(self, **answers: Any) -> None:
        self._answers = {name.replace("_", "."): deque(each) for name, each in answers.items()}
        self.asked: list[str] = []

    async def addresses(self, host: str) -> list[str]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError("no such host")
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if isinstance(answer, str):
            return [answer]
        return list(answer)


def guard(allow: str = "", **answers: Any) -> AddressGuard:
    return AddressGuard(Allowed.parse(allow), Names(**answers))


async def refusal(url: str, allow: str = "", **answers: Any) -> str:
    with pytest.raises(AddressNotAllowedError) as caught:
        await guard(allow, **answers).check(ACME, url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:101::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ],
)
async def test_addresses_that_are_refused(address: str) -> None:
    """As a literal, and as what a name leads to, alone or beside others."""
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    assert "not allowed" in await refusal(f"https://{host}/")
    assert "not allowed" in await refusal("https://a.example/", a_example=[address])
    for both in ([PUBLIC, address], [address, PUBLIC]):
        shown = await refusal("https://a.example/", a_example=[both])
        assert address not in shown


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", PUBLIC_V6, "64:ff9b::1.1.1.1", "2002:101:101::1"])
async def test_addresses_that_are_allowed(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    target = await guard().check(ACME, f"https://{host}:8443/x?y=z")
    assert [str(found) for found in target.addresses] == [str(ipaddress.ip_address(address))]
    assert (await guard(a_example=[address]).check(ACME, "https://a.example")).host == "a.example"


@given(st.ip_addresses())
def test_no_address_is_public_that_the_standard_library_knows_as_private(address: Any) -> None:
    if is_public(address):
        assert address.is_global
        assert not (address.is_private or address.is_multicast or address.is_loopback or address.is_link_local)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "/x",
        "//a.example/",
        "https://",
        "https:///x",
        "ftp://a.example/",
        "file:///etc/passwd",
        "gopher://a.example/",
        "javascript:alert(1)",
        "https://user@a.example/",
        "https://user:pass@a.example/",
        "https://:@a.example/",
        "https://@a.example/",
        "https://a.example\\@b.example/",
        "https://a.example/ x",
        "https://a.example/\tx",
        "https://a.example/\x00",
        "https://a.example/\r\nHost: b.example",
        "https://a example/",
        "https://%61.example/",
        "https://a..example/",
        "https://-a.example/",
        "https://a.example:0/",
        "https://a.example:99999/",
        "https://a.example:x/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://127.0.0.01/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://a.example.0x1/",
        "https://[::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1/",
        "https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://localhost/",
        "https://LOCALHOST:8443/",
        "https://localhost./",
        "https://a.localhost/",
        "https://" + "a." * 127 + "example/",
        "https://nowhere.example/",
    ],
)
async def test_urls_that_are_refused(url: str) -> None:
    await refusal(url, a_example=[PUBLIC], b_example=[PUBLIC])


async def test_names_are_asked_for_as_they_are() -> None:
    names = Names(**{"xn--bcher-kva_example": [PUBLIC]})
    target = await AddressGuard(Allowed(), names).check(ACME, "https://B\u00fccher.example./a?b")
    assert (target.host, target.port, names.asked) == ("xn--bcher-kva.example", 443, ["xn--bcher-kva.example"])


async def test_http_is_for_what_the_operator_allows() -> None:
    assert "https" in await refusal("http://a.example/", a_example=[PUBLIC])
    assert "https" in await refusal("http://a.example/", "10.0.0.0/8", a_example=[["10.0.0.1", PUBLIC]])
    assert (await guard("10.0.0.0/8", a_example=["10.0.0.1"]).check(ACME, "http://a.example/")).port == 80
    assert (await guard(f"{PUBLIC}/32").check(ACME, f"http://{PUBLIC}:81/")).port == 81
    assert await guard("A.Example", a_example=["10.0.0.1"]).check(ACME, "http://a.example/")
    assert await guard("127.0.0.0/8").check(ACME, "http://localhost:1/")
    assert await refusal("http://b.a.example/", "a.example", b_a_example=["10.0.0.1"])
    assert await refusal("http://[::1]/", "127.0.0.0/8")
    assert await guard("127.0.0.0/8").check(ACME, "http://[::ffff:127.0.0.1]/")


async def test_a_host_with_very_many_addresses() -> None:
    assert "more than" in await refusal("https://a.example/", a_example=[[f"1.1.1.{n}" for n in range(65)]])


async def test_a_name_that_resolves_to_nothing_or_nonsense() -> None:
    for answer in ([], ["nonsense"]):
        assert "resolved" in await refusal("https://a.example/", a_example=[answer])


class HangingNames:
    """A resolver that says nothing of names of evil.example until it is released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = asyncio.Event()

    async def addresses(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.endswith("evil.example"):
            await self.released.wait()
            raise OSError("no such host")
        return [PUBLIC]


async def test_names_that_hang_hold_up_their_own_tenant_only() -> None:
    names = HangingNames()
    judging = AddressGuard(Allowed(), names)
    hanging = [asyncio.create_task(judging.check(ACME, f"https://{n}.evil.example")) for n in range(10)]
    await until(lambda: len(names.asked) == RESOLVED_OF_TENANT)
    for check in hanging:
        check.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    late = asyncio.create_task(judging.check(ACME, "https://a.example"))
    assert (await judging.check(Tenant("globex"), "https://b.example")).host == "b.example"
    assert "a.example" not in names.asked
    names.released.set()
    assert (await late).host == "a.example"


@pytest.mark.parametrize("text", ["10.0.0.1/8", "x y", "1.2.3", "http://a", "a:1", "[::1]", "*.example"])
def test_a_setting_that_is_malformed(text: str) -> None:
    with pytest.raises(InvalidSettingError, match="MNEMO_EVENTS_WEBHOOK_ALLOW"):
        Allowed.parse(text)


async def test_the_resolver_of_the_machine() -> None:
    resolver = SystemResolver()
    assert "127.0.0.1" in await resolver.addresses("localhost")
    with pytest.raises(OSError):
        await resolver.addresses("nowhere.invalid")
    resolver.close()


# Sending.


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as running:
        yield running


@pytest.fixture
async def sender() -> AsyncIterator[HttpSender]:
    made = HttpSender(guard("127.0.0.0/8"), ManualClock(), Limits(connect_seconds=1, total_seconds=2))
    yield made
    await made.close()


async def send(sender: HttpSender, url: str, body: bytes = BODY) -> Answer:
    return await sender.send(ACME, url, {"Content-Type": "application/json", "X-Other": "1"}, body)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_it_arrives(sender: HttpSender, server: Endpoint, status: int) -> None:
    server.always = status
    answer = await send(sender, server.url + "?a=b#c")
    assert (answer.status, answer.error, answer.delivered) == (status, "", True)
    (request,) = server.requests
    assert (request.path, request.body) == ("/events?a=b", BODY)
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["content-type"] == "application/json"
    assert "cookie" not in request.headers


@pytest.mark.parametrize(
    ("status", "reason"),
    [(status, Reason.REFUSED_BY_TARGET) for status in (400, 401, 403, 404, 405, 409, 410, 413, 415, 422)]
    + [(429, Reason.UNAVAILABLE), (503, Reason.UNAVAILABLE)]
    + [(status, Reason.HANDLER_ERROR) for status in (300, 301, 302, 303, 304, 408, 425, 500, 502, 504, 599)],
)
async def test_what_a_status_means(sender: HttpSender, server: Endpoint, status: int, reason: Reason) -> None:
    server.always = (status, {"location": f"{server.url}/elsewhere"})
    answer = await send(sender, server.url)
    assert (answer.status, answer.reason, answer.gone) == (status, reason, status == 410)
    assert str(status) in answer.error
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("86400", MAX_RETRY_AFTER),
        ("-1", 0.0),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90.0),
        ("Thu, 01 Jan 2015 00:01:30 GMT", 0.0),
        ("nan", None),
        ("1e999", MAX_RETRY_AFTER),
        ("soon", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 00:01:30 +99999999999999999999", None),
        ("", None),
    ],
)
async def test_how_long_it_asks_to_be_left_alone(
    sender: HttpSender, server: Endpoint, text: str, seconds: float | None
) -> None:
    server.always = (503, {"retry-after": text})
    assert (await send(sender, server.url)).retry_after == seconds


@pytest.mark.parametrize("answer", ["reset", "garbage"])
async def test_a_connection_that_breaks(sender: HttpSender, server: Endpoint, answer: str) -> None:
    server.always = answer
    found = await send(sender, server.url)
    assert (found.status, found.reason) == (0, Reason.UNAVAILABLE)


async def test_no_answer_in_time(server: Endpoint) -> None:
    sender = HttpSender(guard("127.0.0.0/8"), ManualClock(), Limits(total_seconds=0.2))
    server.always = "hang"
    answer = await send(sender, server.url)
    assert (answer.status, answer.reason, answer.error) == (0, Reason.TIMEOUT, "no answer within 0.2 s")
    await sender.close()


@pytest.mark.parametrize("answer", ["drip", "huge"])
async def test_an_answer_without_end_is_not_read(sender: HttpSender, server: Endpoint, answer: str) -> None:
    server.always = answer
    found = await send(sender, server.url)
    assert (found.status, found.delivered) == (200, True)


async def test_nobody_there(sender: HttpSender) -> None:
    with endpoint() as gone:
        url = gone.url
    answer = await send(sender, url)
    assert (answer.status, answer.reason) == (0, Reason.UNAVAILABLE)
    assert "takes no connection" in answer.error


async def test_an_address_that_takes_no_connection_is_passed_over(server: Endpoint) -> None:
    names = Names(a_example=[["127.0.0.2", "127.0.0.1"]])
    sender = HttpSender(AddressGuard(Allowed.parse("127.0.0.0/8"), names), ManualClock())
    answer = await send(sender, f"http://a.example:{server.port}/")
    assert answer.delivered
    assert server.requests[0].headers["host"] == f"a.example:{server.port}"
    await sender.close()


async def test_a_refused_address_gets_nothing(server: Endpoint) -> None:
    sender = HttpSender(guard(), ManualClock())
    for url in (server.url, f"https://127.0.0.1:{server.port}/"):
        answer = await send(sender, url)
        assert (answer.status, answer.reason) == (0, Reason.UNAVAILABLE)
        assert answer.error.startswith("not sent: ")
    assert server.requests == []
    await sender.close()


async def test_a_name_that_changes_between_looking_and_connecting(server: Endpoint) -> None:
    """The request goes to the address that was judged, whatever the name leads to a moment later."""
    names = Names(a_example=["127.0.0.1", "10.0.0.1"])
    judge = AddressGuard(Allowed.parse("127.0.0.1"), names)
    sender = HttpSender(judge, ManualClock())
    assert (await send(sender, f"http://a.example:{server.port}/")).delivered
    assert names.asked == ["a.example"]
    second = await send(sender, f"http://a.example:{server.port}/")
    assert (second.delivered, len(server.requests)) == (False, 1)
    assert second.error.startswith("not sent: ")
    await sender.close()


@pytest.mark.parametrize("status", [307, 308])
async def test_redirects_that_are_followed(sender: HttpSender, server: Endpoint, status: int) -> None:
    server.next.extend([(status, {"location": "/second"}), (status, {"location": server.url + "/third"})])
    answer = await send(sender, server.url)
    assert answer.delivered
    assert [request.path for request in server.requests] == ["/events", "/second", "/events/third"]
    assert {request.body for request in server.requests} == {BODY}


async def test_too_many_redirects(sender: HttpSender, server: Endpoint) -> None:
    server.always = (307, {"location": "/again"})
    answer = await send(sender, server.url)
    assert (answer.status, len(server.requests), answer.reason) == (307, 4, Reason.HANDLER_ERROR)


@pytest.mark.parametrize(
    "location",
    ["http://10.0.0.1/", "http://169.254.169.254/latest", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "", "http://["],
)
async def test_redirects_that_lead_astray(server: Endpoint, location: str) -> None:
    """Each is judged as the first URL was."""
    sender = HttpSender(guard("127.0.0.0/8"), ManualClock(), Limits(total_seconds=2))
    server.next.append((307, {"location": location}))
    server.always = (307, {"location": location})
    answer = await send(sender, server.url)
    assert answer.reason is Reason.HANDLER_ERROR
    assert answer.status == 307
    await sender.close()


async def test_at_most_so_many_at_once(server: Endpoint) -> None:
    """Of a tenant, and in all; none is lost."""
    sender = HttpSender(guard("127.0.0.0/8"), ManualClock(), Limits(requests=3, requests_of_tenant=2))
    server.always = "slow"
    mine = [sender.send(ACME, server.url, {}, BODY) for _ in range(6)]
    assert all(answer.delivered for answer in await asyncio.gather(*mine))
    assert server.most_at_once == 2
    theirs = [sender.send(Tenant(str(n)), server.url, {}, BODY) for n in range(12)]
    assert all(answer.delivered for answer in await asyncio.gather(*theirs))
    assert server.most_at_once == 3
    await sender.close()


async def test_a_cancelled_request_gives_its_place_back(server: Endpoint) -> None:
    sender = HttpSender(guard("127.0.0.0/8"), ManualClock(), Limits(requests=1))
    server.next.append("hang")
    task = asyncio.create_task(send(sender, server.url))
    await until(lambda: len(server.requests) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await send(sender, server.url)).delivered
    await sender.close()


async def test_proxies_of_the_environment_are_not_used(server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        sender = HttpSender(guard("127.0.0.0/8"), ManualClock())
        assert (await send(sender, server.url)).delivered
        assert (len(server.requests), proxy.requests) == (1, [])
        await sender.close()


# TLS: the certificate is that of the name, although the connection goes to an address.


class Authority:
    """A certificate authority for a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(self._name, self._key.public_key(), None)

    def trusting(self) -> ssl.SSLContext:
        pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)

    def server(self, host: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._sign(name, key.public_key(), host)
        path = self._folder / f"{host}.pem"
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        path.write_bytes(private + certificate.public_bytes(encoding))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePublicKey, host: str | None) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_is_with_the_name(authority: Authority) -> None:
    judge = guard("127.0.0.0/8", a_example=["127.0.0.1"], b_example=["127.0.0.1"])
    sender = HttpSender(judge, ManualClock(), tls=authority.trusting())
    with endpoint(authority.server("a.example")) as server:
        assert (await send(sender, f"https://a.example:{server.port}/")).delivered
        assert server.requests[0].headers["host"] == f"a.example:{server.port}"
        answer = await send(sender, f"https://b.example:{server.port}/")
        assert (answer.reason, len(server.requests)) == (Reason.UNAVAILABLE, 1)
        assert answer.error.startswith("TLS with b.example failed")
    await sender.close()


async def test_tls_with_an_unknown_authority(authority: Authority) -> None:
    sender = HttpSender(guard("127.0.0.0/8", a_example=["127.0.0.1"]), ManualClock())
    with endpoint(authority.server("a.example")) as server:
        answer = await send(sender, f"https://a.example:{server.port}/")
        assert (answer.reason, server.requests) == (Reason.UNAVAILABLE, [])
        assert "TLS" in answer.error
    await sender.close()


async def test_no_way_back_from_https_to_http(authority: Authority, server: Endpoint) -> None:
    """Even where http is allowed."""
    judge = guard("127.0.0.0/8", a_example=["127.0.0.1"])
    sender = HttpSender(judge, ManualClock(), tls=authority.trusting())
    with endpoint(authority.server("a.example")) as secure:
        secure.always = (308, {"location": server.url})
        answer = await send(sender, f"https://a.example:{secure.port}/")
        assert (answer.reason, server.requests) == (Reason.HANDLER_ERROR, [])
        assert "from https" in answer.error
    await sender.close()
