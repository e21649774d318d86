"""`mnemo spaces`: list, show, make, change, count, remove and republish spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mnemo_cli.policies import policy_of, policy_options
from mnemo_cli.receipts import print_receipts
from mnemo_cli.shown import moment, print_columns, print_facts, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from mnemocore.client import Connection, ErasureReceipt, KeyRotation, SpaceInfo, SpaceStats

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def spaces() -> None:
    """Spaces: the walls around the memories of an agent, a user or a project."""


@spaces.command("list")
@_json
@connection_options
def list_spaces(as_json: bool, target: Target) -> None:
    """List all spaces by name."""

    async def read(mnemo: Connection) -> list[SpaceInfo]:
        return [space async for space in mnemo.spaces()]

    found = target.run(read)
    if as_json:
        print_json(found)
        return
    headers = ("SPACE", "ACTIVE", "ARCHIVED", "REVISION", "CREATED", "DESCRIPTION")
    print_columns(headers, (_row(space) for space in found))


@spaces.command()
@click.argument("space")
@_json
@connection_options
def show(space: str, as_json: bool, target: Target) -> None:
    """Show one space and its counts."""

    async def read(mnemo: Connection) -> SpaceInfo:
        return await mnemo.space(space).info()

    _print_space(target.run(read), as_json)


@spaces.command()
@click.argument("space")
@click.option("--description", default="", help="What the space is for.")
@click.option("--encrypted", is_flag=True, help="Encrypt at rest what its memories hold; for good.")
@policy_options
@_json
@connection_options
def create(space: str, description: str, encrypted: bool, parts: dict[str, Any], as_json: bool, target: Target) -> None:
    """Make a space: 1 to 63 lower-case letters, digits, - or _, a letter or digit first."""
    policy = policy_of(parts) if parts else None

    async def make(mnemo: Connection) -> SpaceInfo:
        return await mnemo.create_space(space, description=description, policy=policy, encrypted=encrypted)

    _print_space(target.run(make, create=True), as_json)


@spaces.command()
@click.argument("space")
@connection_options
def republish(space: str, target: Target) -> None:
    """Publish every active memory of a space again, so that indexes rebuild what they hold of it."""

    async def publish(mnemo: Connection) -> int:
        return await mnemo.space(space).republish()

    click.echo(f"published {target.run(publish)} memories again")


@spaces.command()
@click.argument("space")
@click.option("--description", help="What the space is for.")
@policy_options
@_json
@connection_options
def update(space: str, description: str | None, parts: dict[str, Any], as_json: bool, target: Target) -> None:
    """Change the description or the policy of a space: what is given, and nothing else."""
    if description is None and not parts:
        raise click.UsageError("name at least one thing to change; see 'mnemo spaces update --help'")

    async def change(mnemo: Connection) -> SpaceInfo:
        if description is not None:
            changed = await mnemo.space(space).update_space(description=description)
        return await mnemo.space(space).set_policy(**parts) if parts else changed

    _print_space(target.run(change), as_json)


@spaces.command()
@click.argument("space")
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True, help="Days of growth to show.")
@_json
@connection_options
def stats(space: str, days: int, as_json: bool, target: Target) -> None:
    """Count what is in a space."""

    async def read(mnemo: Connection) -> SpaceStats:
        return await mnemo.space(space).stats(growth_days=days)

    found = target.run(read)
    if as_json:
        print_json(found)
    else:
        _print_stats(found)


@spaces.command()
@click.argument("space")
@connection_options
def delete(space: str, target: Target) -> None:
    """Remove an empty space; 'mnemo erase' removes one with everything in it."""

    async def remove(mnemo: Connection) -> None:
        await mnemo.space(space).delete()

    target.run(remove)
    click.echo(f"deleted {space}")


@spaces.command("rotate-key")
@click.argument("space")
@_json
@connection_options
def rotate_key(space: str, as_json: bool, target: Target) -> None:
    """Give an encrypted space a new key and encrypt everything in it anew."""

    async def rotate(mnemo: Connection) -> KeyRotation:
        return await mnemo.space(space).rotate_key()

    done = target.run(rotate)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{space} is encrypted with key {done.key_id}, {done.sealed_again} records were encrypted anew")


@spaces.command()
@_json
@connection_options
def erasures(as_json: bool, target: Target) -> None:
    """List the receipts of the spaces that were erased, newest first."""

    async def read(mnemo: Connection) -> list[ErasureReceipt]:
        return [receipt async for receipt in mnemo.erasures()]

    print_receipts(target.run(read), as_json)


def _row(space: SpaceInfo) -> tuple[str, ...]:
    counts = (str(space.active_memories), str(space.archived_memories), str(space.revision))
    return space.id, *counts, moment(space.create_time), space.description


def _print_space(space: SpaceInfo, as_json: bool) -> None:
    if as_json:
        print_json(space)
        return
    policy = space.policy
    print_facts(
        {
            "space": space.id,
            "description": space.description,
            "memories": f"{space.active_memories} active, {space.archived_memories} archived",
            "revision": f"{space.revision} (published up to {space.published_revision})",
            "created": moment(space.create_time),
            "owner": space.owner,
            "your role": space.role,
            "access": policy.access,
            "encrypted": "yes" if space.encrypted else "no",
            "novelty gate": policy.novelty_gate,
            "erase expired after": _period(policy.retention.erase_expired_after),
            "erase archived after": _period(policy.retention.erase_archived_after),
            "memories at most": str(policy.limits.max_memories or ""),
            "bytes at most": str(policy.limits.max_bytes or ""),
            "bytes a memory at most": str(policy.limits.max_content_bytes or ""),
        }
    )


def _period(period: timedelta | None) -> str:
    return str(period) if period is not None else ""


def _print_stats(stats: SpaceStats) -> None:
    print_facts(
        {
            "kinds": _counts(stats.kinds),
            "states": _counts(stats.states),
            "tiers": _counts(stats.tiers),
            "content": f"{stats.content_bytes} bytes",
            "media": f"{stats.media_bytes} bytes",
            "links": str(stats.associations),
        }
    )
    if stats.growth:
        click.echo()
        rows = ((str(day.day), str(day.memories), str(day.content_bytes)) for day in stats.growth)
        print_columns(("DAY", "MEMORIES", "BYTES"), rows)


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "none"
