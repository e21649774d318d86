"""`mnemo tasks`: work for agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_cli import choices, moments
from mnemo_cli.listings import at_most
from mnemo_cli.payloads import in_a_line, payload_of, task_document
from mnemo_cli.references import json_option
from mnemo_cli.shown import moment, print_columns, print_facts, print_json
from mnemo_cli.target import Target, connection_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from mnemocore.client import Connection, Task


@click.group()
def tasks() -> None:
    """Tasks: work for agents that can do it."""


@tasks.command("list")
@click.option("--state", type=choices.task_state, help="Only those in this state.")
@click.option("--type", "task_type", default="", help="Only those of this type.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Tasks at most.")
@json_option
@connection_options
def list_tasks(state: str | None, task_type: str, limit: int, as_json: bool, target: Target) -> None:
    """List the tasks, newest first, without payloads and results."""

    async def read(mnemo: Connection) -> list[Task]:
        return await at_most(limit, mnemo.tasks.list(state=state, type=task_type, page_size=min(limit, 1000)))

    found = target.run(read)
    if as_json:
        print_json([task_document(task) for task in found])
        return
    print_columns(("TASK", "TYPE", "STATE", "PRIORITY", "ATTEMPTS", "AGENT", "CREATED", "ERROR"), map(_row, found))


@tasks.command()
@click.argument("type")
@click.option(
    "--data", metavar="JSON|@FILE|-", help="What it is to be done with; @FILE reads a file, - standard input."
)
@click.option("--content-type", default="", help="What the data is, if it is not JSON.")
@click.option("--id", "task_id", default="", help="Its name; adding the same again changes nothing. Made if not given.")
@click.option("--capability", "capabilities", multiple=True, help="What an agent must be able to do; repeat it.")
@click.option("--priority", type=click.IntRange(0, 9), default=0, show_default=True, help="The higher, the sooner.")
@click.option("--max-attempts", type=click.IntRange(1, 100), default=5, show_default=True, help="Attempts at most.")
@click.option("--not-before", type=moments.expiry, metavar="SPAN|TIME", help="Not before then: 10m, 2h, or a time.")
@json_option
@connection_options
def add(
    type: str,
    data: str | None,
    content_type: str,
    task_id: str,
    capabilities: tuple[str, ...],
    priority: int,
    max_attempts: int,
    not_before: datetime | None,
    as_json: bool,
    target: Target,
) -> None:
    """Put a task of a TYPE such as summarise into the queue."""
    payload, found_type = payload_of(data, content_type)

    async def enqueue(mnemo: Connection) -> Task:
        return await mnemo.tasks.enqueue(
            type,
            payload,
            id=task_id,
            content_type=found_type,
            capabilities=capabilities,
            priority=priority,
            max_attempts=max_attempts,
            not_before=not_before,
        )

    task = target.run(enqueue, create=True)
    if as_json:
        print_json(task_document(task))
    else:
        click.echo(f"added {task.id}")


@tasks.command()
@click.argument("task")
@json_option
@connection_options
def show(task: str, as_json: bool, target: Target) -> None:
    """Show a task with its payload and result."""
    _act(target, lambda mnemo: mnemo.tasks.get(task), as_json)


@tasks.command()
@click.argument("task")
@json_option
@connection_options
def cancel(task: str, as_json: bool, target: Target) -> None:
    """Take a task out of the queue, or from the agent that has it."""
    _act(target, lambda mnemo: mnemo.tasks.cancel(task), as_json)


@tasks.command()
@click.argument("task")
@json_option
@connection_options
def retry(task: str, as_json: bool, target: Target) -> None:
    """Put a dead task into the queue again, with as many attempts as a new one."""
    _act(target, lambda mnemo: mnemo.tasks.retry(task), as_json)


@tasks.command()
@click.option("--state", type=choices.ended_task_state, required=True, help="Those that ended so.")
@click.option("--before", type=moments.time, metavar="TIME", help="Those that ended before this time.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@connection_options
def purge(state: str, before: datetime | None, yes: bool, as_json: bool, target: Target) -> None:
    """Remove tasks that ended, for good."""
    if not yes:
        click.confirm(f"Remove the tasks that are {state} for good?", abort=True, err=True)

    async def remove(mnemo: Connection) -> int:
        return await mnemo.tasks.purge(state, before=before)

    purged = target.run(remove)
    if as_json:
        print_json({"purged": purged})
    else:
        click.echo(f"removed {purged}")


def _act(target: Target, action: Callable[[Connection], Awaitable[Task]], as_json: bool) -> None:
    """Do something to a task, and print the task."""
    task = target.run(action)
    if as_json:
        print_json(task_document(task))
        return
    print_facts(
        {
            "task": task.id,
            "type": task.type,
            "state": task.state,
            "capabilities": " ".join(task.capabilities),
            "priority": str(task.priority),
            "attempts": f"{task.attempts} of {task.max_attempts}",
            "retries": str(task.retries or ""),
            "agent": task.agent,
            "leased until": moment(task.lease_until) if task.lease_until else "",
            "not before": moment(task.not_before) if task.not_before else "",
            "asked for by": task.principal,
            "created": moment(task.create_time),
            "ended": moment(task.end_time) if task.end_time else "",
            "reason": task.reason if task.error else "",
            "error": task.error,
            "payload": in_a_line(task.payload),
            "result": in_a_line(task.result),
        }
    )


def _row(task: Task) -> tuple[str, ...]:
    return (
        task.id,
        task.type,
        task.state,
        str(task.priority),
        f"{task.attempts}/{task.max_attempts}",
        task.agent or "-",
        moment(task.create_time),
        task.error,
    )
