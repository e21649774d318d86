"""Where webhooks may lead: addresses of the public internet, and those an operator allows.

A tenant chooses the URL, this process connects to it from inside the operator's network. So a host name is resolved
here, every address it has is judged, and the request goes to one of the very addresses that were judged: no name is
resolved a second time on the way, where it could lead elsewhere.
"""

from __future__ import annotations

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

import httpx2

from mnemo_events.domain.webhook import AddressNotAllowedError
from mnemocore.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnemocore.ids import Tenant

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

VARIABLE: Final = "MNEMO_EVENTS_WEBHOOK_ALLOW"
RESOLVE_SECONDS: Final = 5.0
"""How long a name may take to be resolved."""
MAX_ADDRESSES: Final = 64
"""Addresses of one host that are judged; a host with more is refused."""
_RESOLVERS: Final = 32
"""Names that are resolved at once."""
RESOLVED_OF_TENANT: Final = 4
"""Of these those of one tenant; names that hang count until the resolver gives them up."""
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_AUTHORITY_END: Final = re.compile(r"[/?#]")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOOPBACK: Final = (IPv4Address("127.0.0.1"),)

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_REFUSED: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # shared by carriers; some clouds keep their metadata there
        "168.63.129.16",  # the host of an Azure machine
        "192.0.0.0/24",  # protocol assignments; the host of an Oracle machine
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # protocol assignments
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)


class Resolver(Protocol):
    """Finds the addresses of a host."""

    async def addresses(self, host: str) -> Sequence[str]:
        """All addresses of a host name, those to be tried first first; none if it has none. Raises OSError."""
        ...


class SystemResolver:
    """Asks the resolver of the machine, in threads of its own: names that hang hold up no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="mnemo-resolve")

    async def addresses(self, host: str) -> list[str]:
        """The addresses of a host name. Raises OSError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _resolve, host)

    def close(self) -> None:
        """Take no more names; those under way are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator allows besides public addresses: networks, and host names in lower case."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str, setting: str = VARIABLE) -> Allowed:
        """Networks and host names, separated by commas. Raises InvalidSettingError."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for item in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ip_network(item))
            except ValueError:
                if not _is_name(item):
                    described = "allowed are networks such as 10.1.0.0/16 and host names, separated by commas"
                    raise InvalidSettingError(f"{setting}: {item!r}: {described}", setting=setting) from None
                hosts.add(item)
        return cls(tuple(networks), frozenset(hosts))

    def holds(self, address: Address) -> bool:
        """Whether an address lies in one of the networks."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that was judged, its host as TLS names it (without brackets), and the host's addresses, all allowed."""

    url: httpx2.URL
    host: str
    port: int
    addresses: tuple[Address, ...]


class AddressGuard:
    """Judges URLs. http is for what an operator allows by name or network; https for that and for public addresses.

    Names of a tenant that hang hold up other names of this tenant only.
    """

    def __init__(self, allowed: Allowed, resolver: Resolver) -> None:
        self._allowed = allowed
        self._resolver = resolver
        self._resolving: WeakValueDictionary[Tenant, asyncio.Semaphore] = WeakValueDictionary()

    async def check(self, tenant: Tenant, url: str) -> Target:
        """The URL of a tenant with the addresses it may be sent to now. Raises AddressNotAllowedError."""
        parsed, host = _parsed(url)
        addresses = await self._addresses(tenant, host)
        self._judge(parsed.scheme, host, addresses)
        return Target(parsed, host, parsed.port or _DEFAULT_PORTS[parsed.scheme], tuple(addresses))

    async def _addresses(self, tenant: Tenant, host: str) -> Sequence[Address]:
        literal = _literal(host)
        if literal is not None:
            return (literal,)
        if host == "localhost" or host.endswith(".localhost"):
            return _LOOPBACK
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = [_unwrapped(ip_address(text)) for text in await self._resolved(tenant, host)]
        except (OSError, ValueError, UnicodeError):  # OSError includes TimeoutError
            raise AddressNotAllowedError(f"the host {host!r} cannot be resolved") from None
        if not found:
            raise AddressNotAllowedError(f"the host {host!r} cannot be resolved")
        return list(dict.fromkeys(found))

    async def _resolved(self, tenant: Tenant, host: str) -> Sequence[str]:
        """What the resolver says. It has a place among those of the tenant until it says it, also to nobody."""
        own = self._resolving.get(tenant)
        if own is None:
            own = self._resolving[tenant] = asyncio.Semaphore(RESOLVED_OF_TENANT)
        await own.acquire()
        asked = asyncio.ensure_future(self._resolver.addresses(host))

        def said(answer: asyncio.Future[Sequence[str]]) -> None:
            own.release()
            if not answer.cancelled():
                answer.exception()

        asked.add_done_callback(said)
        return await asyncio.shield(asked)

    def _judge(self, scheme: str, host: str, addresses: Sequence[Address]) -> None:
        if host in self._allowed.hosts:
            return
        if len(addresses) > MAX_ADDRESSES:
            raise AddressNotAllowedError(f"the host {host!r} has more than {MAX_ADDRESSES} addresses")
        others = [address for address in addresses if not self._allowed.holds(address)]
        if not all(is_public(address) for address in others):
            raise AddressNotAllowedError(
                f"the host {host!r} leads to an address that is not allowed; allowed are public addresses, and what "
                f"the operator names in {VARIABLE}"
            )
        if others and scheme == "http":
            raise AddressNotAllowedError(
                f"the scheme 'http' is not allowed for the host {host!r}; allowed is https, and http to what the "
                f"operator names in {VARIABLE}"
            )


def is_public(address: Address) -> bool:
    """Whether an address is one of a single host on the public internet, also through what it embeds."""
    if isinstance(address, IPv6Address) and not _is_public_v6(address):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_loopback
        and not address.is_link_local
        and not address.is_private
        and not address.is_unspecified
        and not (address.is_reserved and address not in _NAT64)
        and not _within(address, _REFUSED)
    )


def _is_public_v6(address: IPv6Address) -> bool:
    embedded = _embedded(address)
    if address not in _GLOBAL_UNICAST and address not in _NAT64:
        return False
    return all(is_public(inner) for inner in embedded)


def _embedded(address: IPv6Address) -> Iterable[IPv4Address]:
    """The IPv4 addresses to which gateways pass on what is sent to an IPv6 address."""
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    yield from address.teredo or ()


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for on this machine, else the address without its zone."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _parsed(url: str) -> tuple[httpx2.URL, str]:
    """The URL and its host in lower case. Raises AddressNotAllowedError."""
    if not url.isprintable() or " " in url or "\\" in url:
        raise AddressNotAllowedError("the URL has white space, a backslash or a control character; allowed are none")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise AddressNotAllowedError("the URL is malformed; allowed is https://host/path") from None
    if parsed.scheme not in _DEFAULT_PORTS:
        raise AddressNotAllowedError(f"the scheme {parsed.scheme!r} is not allowed; allowed is https")
    if parsed.userinfo or "@" in _AUTHORITY_END.split(url.partition("://")[2], maxsplit=1)[0]:
        raise AddressNotAllowedError("the URL has a user or password; allowed are none")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise AddressNotAllowedError(f"the port {parsed.port} does not exist; allowed is 1 to 65535")
    host = parsed.raw_host.decode("ascii", "replace").lower().removesuffix(".")
    if _literal(host) is None and not _is_name(host):
        raise AddressNotAllowedError(f"the host {host[:253]!r} is no host name and no address in its usual notation")
    return parsed, host


def _is_name(host: str) -> bool:
    """Whether it is a host name; one that ends in a number is an address in a notation that few expect."""
    labels = host.split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])


def _literal(host: str) -> Address | None:
    """The address that a host is itself, in its usual notation; None for a name."""
    if "%" in host:
        return None
    try:
        return _unwrapped(ip_address(host))
    except ValueError:
        return None


def _resolve(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
