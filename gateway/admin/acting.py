"""Commands that act: dead letters and replay. Only the running gateway carries them out, and it records who asked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gateway.admin.desk import Desk, answering, with_actor, with_configuration, with_json
from gateway.admin.operations import LIMIT_MAX
from gateway.admin.reading import DEAD_LETTER, print_json, print_one
from gateway.admin.times import FORMS, parse_instant
from gateway.admin.view import show
from gateway.admin.wire import Exit
from gateway.model.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.admin.rows import Row
    from gateway.settings.configuration import Configuration

__all__ = ["dead_letter", "replay"]


@click.group("dead-letter", short_help="Messages that a destination will not take.")
def dead_letter() -> None:
    """Messages that a destination will not take; they are kept until somebody decides."""


def _with_route(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--route", metavar="NAME", help="Of this route only.")(command)


def _with_reason(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--reason", default="", metavar="TEXT", help="Why; recorded in the audit trail (no patient data, please).")(command)


@dead_letter.command("ls")
@with_configuration
@_with_route
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, LIMIT_MAX), help="At most so many, oldest first.")
@with_json
@click.pass_obj
@answering
def dead_letter_ls(desk: Desk, config: Path | None, route: str | None, limit: int, *, as_json: bool) -> None:
    """List dead letters, oldest first; no content."""
    rows = desk.read(desk.configuration(config), "dead-letters", {"route": route, "limit": limit})
    if as_json:
        print_json(rows)
    else:
        show(DEAD_LETTER, rows, "no dead letters")


@dead_letter.command("show")
@click.argument("event_id", metavar="ID")
@with_configuration
@_with_route
@click.option("--reveal", is_flag=True, help="Show the content and the destination's words too; this is recorded in the audit trail.")
@with_actor
@with_json
@click.pass_obj
@answering
def dead_letter_show(desk: Desk, event_id: str, config: Path | None, route: str | None, by: str, *, reveal: bool, as_json: bool) -> None:
    """Show one dead letter."""
    rows = desk.read(desk.configuration(config), "dead-letter", {"id": event_id, "route": route, "reveal": reveal}, by)
    print_one(rows, as_json=as_json, missing="no dead letter has this id")


def _with_ids(command: Callable[..., Any]) -> Callable[..., Any]:
    every = click.option("--all", "every", is_flag=True, help="All dead letters of --route.")
    return click.argument("event_ids", nargs=-1, metavar="ID...")(every(command))


@dead_letter.command("replay")
@_with_ids
@with_configuration
@_with_route
@with_actor
@_with_reason
@with_json
@click.pass_obj
@answering
def dead_letter_replay(
    desk: Desk, event_ids: tuple[str, ...], config: Path | None, route: str | None, by: str, reason: str, *, every: bool, as_json: bool
) -> None:
    """Send dead letters again, as a new revision of the same event."""
    configuration = desk.configuration(config)
    ids = _chosen(desk, configuration, event_ids, route, every=every)
    rows = desk.act(configuration, "dead-letter-replay", {"ids": ids, "route": route, "reason": reason}, by)
    _report(rows, len(ids), "queued again", as_json=as_json)


@dead_letter.command("discard")
@_with_ids
@with_configuration
@_with_route
@with_actor
@_with_reason
@click.option("--yes", is_flag=True, help="Do not ask (nothing is asked either where there is no terminal).")
@with_json
@click.pass_obj
@answering
def dead_letter_discard(
    desk: Desk,
    event_ids: tuple[str, ...],
    config: Path | None,
    route: str | None,
    by: str,
    reason: str,
    *,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give up dead letters for good: they are never delivered and count as gaps."""
    configuration = desk.configuration(config)
    ids = _chosen(desk, configuration, event_ids, route, every=every)
    if ids and not yes and sys.stdin.isatty():
        click.confirm(f"Discard {len(ids)} dead letter(s) for good?", abort=True)
    rows = desk.act(configuration, "dead-letter-discard", {"ids": ids, "route": route, "reason": reason}, by)
    _report(rows, len(ids), "discarded", as_json=as_json)


def _chosen(desk: Desk, configuration: Configuration, ids: Sequence[str], route: str | None, *, every: bool) -> list[str]:
    """The ids that are meant. Raises ``click.UsageError`` where it is not clear which."""
    if every and ids:
        raise click.UsageError("give either ids or --all")
    if every and route is None:
        raise click.UsageError("--all needs --route NAME")
    if not every and not ids:
        raise click.UsageError("give the ids of dead letters (`edge-gateway dead-letter ls` shows them), or --all with --route")
    if not every:
        return list(dict.fromkeys(ids))
    return [str(row["id"]) for row in desk.act(configuration, "dead-letters", {"route": route, "limit": LIMIT_MAX}, "")]


def _report(rows: Sequence[Row], wanted: int, done: str, *, as_json: bool) -> None:
    count = rows[0]["count"] if rows else 0
    if as_json:
        print_json({"count": count, "asked": wanted})
    else:
        click.echo(f"{count} of {wanted} {done}")
    if isinstance(count, int) and count < wanted:
        raise PermanentError("not-dead-letters", "the others are no dead letters (of this route), or were acted on before") from None


@click.command(short_help="Send messages of a span of time again.")
@with_configuration
@click.option("--route", required=True, metavar="NAME", help="The route whose destination gets the messages again.")
@click.option("--since", required=True, metavar="TIME", help=f"Received at or after: {FORMS}.")
@click.option("--until", metavar="TIME", help="Received at or before; default: now.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@with_actor
@_with_reason
@with_json
@click.pass_obj
@answering
def replay(
    desk: Desk, config: Path | None, route: str, since: str, until: str | None, by: str, reason: str, *, dry_run: bool, as_json: bool
) -> None:
    """Send again what a route has delivered or dead-lettered in a span of time, as new revisions."""
    configuration = desk.configuration(config)
    if route not in configuration.route_names:
        raise click.BadParameter(f"no route has this name; there is {', '.join(configuration.route_names) or 'none'}", param_hint="--route")
    since_us = _instant(desk, configuration, "--since", since)
    until_us = desk.surroundings.clock.wall_us() if until is None else _instant(desk, configuration, "--until", until)
    if since_us >= until_us:
        raise click.BadParameter("must be before --until", param_hint="--since")
    arguments = {"route": route, "since_us": since_us, "until_us": until_us, "dry_run": dry_run, "reason": reason}
    row = desk.act(configuration, "replay", arguments, by)[0]
    if as_json:
        print_json(row)
    else:
        _print_replay(row)
    if not row["replayed"]:
        raise SystemExit(Exit.NO)


def _instant(desk: Desk, configuration: Configuration, option: str, text: str) -> int:
    found = parse_instant(text, desk.surroundings.clock.wall_us(), configuration.gateway.time_zone)
    if found is None:
        raise click.BadParameter(f"not a time; write {FORMS}", param_hint=option)
    return found


def _print_replay(row: Row) -> None:
    what = "would be queued again" if row["dry_run"] else "queued again"
    click.echo(f"{row['replayed']} {what} ({row['delivered']} delivered, {row['dead_letter']} dead letters)")
    skipped = row["skipped"]
    if isinstance(skipped, dict):
        for reason, count in skipped.items():
            click.echo(f"{count} left out: {reason}")
