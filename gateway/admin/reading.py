"""Commands that only read: status, queue, trace, refused, tap, audit. All but ``tap`` also answer while the gateway is stopped."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import click
import orjson

from gateway.admin.desk import Desk, answering, with_actor, with_configuration, with_json
from gateway.admin.status_row import status_row
from gateway.admin.view import Column, content_text, facts, printable, sheet_text, show, show_status
from gateway.admin.wire import Exit
from gateway.model.errors import LockedError, PermanentError
from gateway.model.state import GatewayState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.admin.rows import Row

__all__ = ["DEAD_LETTER", "audit", "print_json", "print_one", "queue", "refused", "status", "tap", "trace"]

LOCKED_HINT: Final = "the key is missing or wrong for this journal; `edge-gateway check` looks at the key, then try again"
_MESSAGE: Final = (
    Column("id", "ID"),
    Column("source", "SOURCE"),
    Column("type", "TYPE"),
    Column("class", "CLASS"),
    Column("received", "RECEIVED"),
)
_BYTES: Final = Column("bytes", "BYTES", right=True)
_QUEUE: Final = (Column("route", "ROUTE"), *_MESSAGE, _BYTES)
_TRACE: Final = (
    Column("at", "AT"),
    Column("fact", "FACT"),
    Column("source", "SOURCE"),
    Column("route", "ROUTE"),
    Column("actor", "ACTOR"),
    Column("detail", "DETAIL"),
)
_REFUSED: Final = (
    Column("id", "ID", right=True),
    Column("at", "AT"),
    Column("source", "SOURCE"),
    Column("code", "CODE"),
    Column("peer", "PEER"),
    _BYTES,
)
_FINDINGS: Final = (Column("commit", "COMMIT", right=True), Column("fault", "DOES NOT FIT"))
_DECLARED: Final = (Column("commit", "COMMIT", right=True), Column("fact", "REPORTED WHEN IT HAPPENED"))
#: Columns of dead letters.
DEAD_LETTER: Final = (Column("route", "ROUTE"), *_MESSAGE, Column("code", "CODE"), Column("since", "SINCE"), _BYTES)


def print_json(value: object) -> None:
    """One JSON document, indented: for people with pipes and for programs."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_one(found: Sequence[Row], *, as_json: bool, missing: str) -> None:
    """The rows that a ``show`` found, with their content where it was revealed. Raises ``PermanentError`` where there is none."""
    if not found:
        raise PermanentError("not-found", missing)
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
        return
    for row in found:
        plain = {key: value for key, value in row.items() if key not in ("data_base64", "reason")}
        click.echo(facts(plain))
        if "reason" in row:
            click.echo(f"\nreason of the destination:\n{printable(str(row['reason']))}")
        if "data_base64" in row:
            click.echo(f"\n{content_text(row)}")


@click.command(short_help="Show state, counts and queues.")
@with_configuration
@with_json
@click.pass_obj
@answering
def status(desk: Desk, config: Path | None, *, as_json: bool) -> None:
    """Show state, counts and queues; answers in every state, also while the gateway is stopped."""
    row = status_row(desk, desk.configuration(config))
    if as_json:
        print_json(row)
    else:
        show_status(row)


@click.group
def queue() -> None:
    """Messages that wait for their destination."""


@queue.command("ls")
@with_configuration
@click.option("--route", metavar="NAME", help="Of this route only.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="At most so many of each route.")
@with_json
@click.pass_obj
@answering
def queue_ls(desk: Desk, config: Path | None, route: str | None, limit: int, *, as_json: bool) -> None:
    """List queued messages, oldest first; no content."""
    configuration = desk.configuration(config)
    names = [route] if route is not None else _routes(desk.read(configuration, "status", {})[0])
    rows = [row for name in names for row in desk.read(configuration, "queue", {"route": name, "limit": limit})]
    if as_json:
        print_json(rows)
    else:
        show(_QUEUE, rows, "nothing is queued")


def _routes(status: Row) -> list[str]:
    """Names of all routes, also of those that are no longer configured. Raises ``LockedError``: a list needs the key."""
    if status["state"] == GatewayState.LOCKED.value:
        raise LockedError(str(status.get("cause", "locked")), LOCKED_HINT)
    routes = status["routes"]
    return [str(route["name"]) for route in routes] if isinstance(routes, list) else []


@queue.command("show")
@click.argument("event_id", metavar="ID")
@with_configuration
@click.option("--reveal", is_flag=True, help="Show the content too; this is recorded in the audit trail.")
@with_actor
@with_json
@click.pass_obj
@answering
def queue_show(desk: Desk, event_id: str, config: Path | None, by: str, *, reveal: bool, as_json: bool) -> None:
    """Show one stored message: its envelope, and with --reveal its content."""
    rows = desk.read(desk.configuration(config), "message", {"id": event_id, "reveal": reveal}, by)
    print_one(rows, as_json=as_json, missing="no such message is stored here any more")


@click.command
@click.argument("event_id", metavar="ID")
@with_configuration
@with_json
@click.pass_obj
@answering
def trace(desk: Desk, event_id: str, config: Path | None, *, as_json: bool) -> None:
    """Show every recorded fact about one message, in order."""
    rows = desk.read(desk.configuration(config), "trace", {"id": event_id}, timeout_s=None)
    if not rows:
        raise PermanentError("not-found", "nothing is recorded about such a message")
    if as_json:
        print_json(rows)
    else:
        show(_TRACE, rows, "")


@click.group
def refused() -> None:
    """Frames that were refused: what came, from where, and why not."""


@refused.command("ls")
@with_configuration
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 100_000), help="At most so many, newest first.")
@with_json
@click.pass_obj
@answering
def refused_ls(desk: Desk, config: Path | None, limit: int, *, as_json: bool) -> None:
    """List refused frames, newest first; no content."""
    rows = desk.read(desk.configuration(config), "refused", {"limit": limit})
    if as_json:
        print_json(rows)
    else:
        show(_REFUSED, rows, "nothing was refused")


@refused.command("show")
@click.argument("number", metavar="ID", type=click.IntRange(0))
@with_configuration
@click.option("--reveal", is_flag=True, help="Show the first 64 KiB of the frame too; this is recorded in the audit trail.")
@with_actor
@with_json
@click.pass_obj
@answering
def refused_show(desk: Desk, number: int, config: Path | None, by: str, *, reveal: bool, as_json: bool) -> None:
    """Show one refused frame."""
    rows = desk.read(desk.configuration(config), "refused-frame", {"id": number, "reveal": reveal}, by)
    print_one(rows, as_json=as_json, missing="no refused frame has this number (the ring keeps the newest ones)")


@click.command(short_help="Show messages as they are committed.")
@with_configuration
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many messages; default: on Ctrl-C.")
@click.option("--reveal", is_flag=True, help="Show the content too; this is recorded in the audit trail.")
@with_actor
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_obj
@answering
def tap(desk: Desk, config: Path | None, count: int | None, by: str, *, reveal: bool, as_json: bool) -> None:
    """Show messages as they are committed; no content without --reveal."""
    left = count
    rows = desk.stream(desk.configuration(config), "tap", {"reveal": reveal}, by)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how this command ends
        for row in rows:
            if as_json:
                click.echo(orjson.dumps(row).decode())
            else:
                _print_tapped(row)
            left = left - 1 if left is not None and "missed" not in row else left
            if left == 0:
                return


def _print_tapped(row: Row) -> None:
    if "missed" in row:
        click.echo(f"({row['missed']} left out: this terminal is too slow)")
        return
    click.echo(sheet_text((*_MESSAGE, _BYTES), [row]).split("\n")[1])
    if "data_base64" in row:
        click.echo(content_text(row) + "\n")


@click.group
def audit() -> None:
    """The audit trail."""


@audit.command("verify")
@with_configuration
@with_json
@click.pass_obj
@answering
def audit_verify(desk: Desk, config: Path | None, *, as_json: bool) -> None:
    """Walk the whole trail and say whether anything was edited, deleted or reordered; exit 1 where it was."""
    report = desk.read(desk.configuration(config), "audit", {}, timeout_s=None)[0]
    if as_json:
        print_json(report)
    else:
        _print_audit(report)
    if not report["ok"]:
        raise SystemExit(Exit.NO)


def _print_audit(report: Row) -> None:
    verdict = "is whole" if report["ok"] else "is NOT whole"
    click.echo(f"the audit trail {verdict}: commits {report['first_commit']} to {report['last_commit']}")
    click.echo(f"{report['records']} records and {report['blocks']} blocks were looked at")
    if report["witness"] == "absent":
        click.echo("no witness lay beside the journal, so a tail that was cut off could not have been seen")
    for key, columns in (("findings", _FINDINGS), ("declared", _DECLARED)):
        rows = report[key]
        if isinstance(rows, list) and rows:
            click.echo()
            show(columns, rows, "")
