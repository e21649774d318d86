"""What travels with a call."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.errors import UnauthenticatedError
from mnemocore.ids import Tenant
from mnemocore.policy import all_methods

AREAS = ("memory", "events", "cognitive", "gateway")
SCOPES = [f"{area}:{right}" for area in AREAS for right in ("read", "write", "admin")]


def who(*scopes: str) -> Identity:
    return Identity(Tenant("acme"), "ada", frozenset(scopes))


@given(st.sets(st.sampled_from([*SCOPES, "*"])), st.sampled_from(SCOPES))
def test_a_scope_is_granted_by_name_by_its_area_or_by_everything(scopes: set[str], wanted: str) -> None:
    area = wanted.partition(":")[0]
    assert who(*scopes).allows(wanted) == (not scopes.isdisjoint({wanted, f"{area}:admin", "*"}))


@pytest.mark.parametrize("scopes", [SCOPES, ["*:admin"], [":admin"], [""]])
def test_everything_is_granted_by_everything_alone(scopes: list[str]) -> None:
    assert not who(*scopes).allows("*")
    assert who("*").allows("*")


@pytest.mark.parametrize("area", AREAS)
def test_one_area_does_not_grant_another(area: str) -> None:
    granted = {scope for scope in SCOPES if who(f"{area}:admin").allows(scope)}
    assert granted == {f"{area}:read", f"{area}:write", f"{area}:admin"}


def test_nobody_may_do_nothing() -> None:
    assert not any(who().allows(scope) for scope in (*SCOPES, "*", ""))


def test_every_public_method_asks_for_a_scope_that_exists() -> None:
    for method in all_methods():
        assert (method.scope in SCOPES) if method.public else (method.scope == "")


def test_a_call_of_no_tenant_has_no_caller() -> None:
    with pytest.raises(UnauthenticatedError):
        calls.caller()
    token = calls.identity.set(who("memory:read"))
    assert calls.caller() == who("memory:read")
    calls.identity.reset(token)


async def test_calls_at_once_do_not_see_each_other() -> None:
    met = asyncio.Barrier(3)

    async def call(name: str) -> tuple[str, str]:
        calls.identity.set(Identity(Tenant(name), name, frozenset()))
        calls.request_id.set(name)
        await met.wait()
        return calls.caller().principal, calls.request_id.get()

    names = ["ada", "bob", "eve"]
    assert await asyncio.gather(*(asyncio.create_task(call(name)) for name in names)) == [(n, n) for n in names]
    assert calls.identity.get() is None
    assert (calls.request_id.get(), calls.deadline.get()) == ("", None)
