"""The command line ``edge-gateway``. ``service`` builds it with the programs and kinds it has; nothing here runs at import.

``run`` does not come through here (``run_arguments``), except for its help and where somebody calls the group directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from gateway import __version__
from gateway.admin.acting import dead_letter, replay
from gateway.admin.desk import Desk, Programs, Surroundings, answering, with_configuration, with_json
from gateway.admin.initialise import gateway_id_of, host_time_zone, initialise, unfit
from gateway.admin.reading import audit, print_json, queue, refused, status, tap, trace
from gateway.admin.wire import Exit
from gateway.settings.load import lint

if TYPE_CHECKING:
    from gateway.model.errors import Issue
    from gateway.settings.kinds import Kinds

__all__ = ["PROGRAM", "Programs", "Surroundings", "build"]

PROGRAM = "edge-gateway"
_EPILOG = """\b
Exit codes: 0 done, 1 the answer is no, 2 usage, 3 configuration, 4 locked (key missing or wrong), 5 unavailable.
"""


_COMMANDS = (status, queue, dead_letter, refused, replay, trace, tap, audit)


def build(programs: Programs, kinds: Kinds, surroundings: Surroundings) -> click.Group:
    """The command group; call it, or ``main(args, prog_name=…)``."""
    group = click.Group(
        PROGRAM,
        help="Clinical edge gateway: HL7 v2 in, made durable, only then acknowledged, delivered with proof.",
        epilog=_EPILOG,
        context_settings={"obj": Desk(kinds, programs, surroundings), "help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    group = click.version_option(__version__, prog_name=PROGRAM)(group)
    for command in (init, check, run, demo, programs.receive, *_COMMANDS, completion):
        group.add_command(command)
    return group


@click.command(short_help="Make a directory with a configuration and a key.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--id", "gateway_id", metavar="ID", help="The gateway's id, 1 to 63 of a-z 0-9 -; default: from the directory's name.")
@click.option("--time-zone", metavar="NAME", help="For senders that give no UTC offset; default: this machine's.")
@click.pass_obj
@answering
def init(desk: Desk, directory: Path, gateway_id: str | None, time_zone: str | None) -> None:
    """Make DIR with a configuration that runs and a key; never overwrites anything."""
    chosen = gateway_id or gateway_id_of(directory), time_zone or host_time_zone()
    for issue in unfit(*chosen):
        option = "--id" if issue.path == "gateway.id" else "--time-zone"
        raise click.BadParameter(f"{issue.reason}; {issue.fix}", param_hint=option)
    made = initialise(directory, *chosen, desk.surroundings.randomness)
    click.echo(f"{made.configuration} is written: HL7 v2 over MLLP on 127.0.0.1:2575, into a file in {directory / 'out'}.")
    kept = "was there and is kept" if made.key_kept else "is written"
    click.echo(f"{made.key} {kept}: without it the journal cannot be read, so keep a copy in a safe place.")
    click.echo(f"Next: {PROGRAM} check -c {made.configuration}")
    click.echo(f"      {PROGRAM} run -c {made.configuration}")


@click.command(short_help="Find every problem of a configuration in one run.")
@with_configuration
@with_json
@click.pass_obj
@answering
def check(desk: Desk, config: Path | None, *, as_json: bool) -> None:
    """Find every problem of a configuration in one run: where, what, and how to mend it."""
    path = desk.path(config)
    issues = lint(path, desk.kinds, desk.surroundings.credentials_directory)
    fatal = sum(issue.fatal for issue in issues)
    if as_json:
        print_json([_issue_row(issue) for issue in issues])
    else:
        for issue in issues:
            click.echo(f"{'error' if issue.fatal else 'warning'}: {issue.path}: {issue.reason}; {issue.fix}")
        warnings = len(issues) - fatal
        click.echo(f"{path}: {_count(fatal, 'error')}, {_count(warnings, 'warning')}" if issues else f"{path}: nothing to complain about")
    if fatal:
        raise SystemExit(Exit.NO)


def _issue_row(issue: Issue) -> dict[str, object]:
    return {"level": "error" if issue.fatal else "warning", "path": issue.path, "reason": issue.reason, "fix": issue.fix}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@click.command
@with_configuration
@click.pass_obj
@answering
def run(desk: Desk, config: Path | None) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C."""
    raise SystemExit(desk.programs.run(desk.path(config)))


@click.command(short_help="See it work, the link cut and restored included.")
@click.option("--for", "seconds", type=click.FloatRange(1.0), metavar="SECONDS", help="How long; default: until you have seen it all.")
@click.pass_obj
@answering
def demo(desk: Desk, seconds: float | None) -> None:
    """See it work: the real gateway, senders, a receiver, a link that is cut and restored, and the books at the end."""
    raise SystemExit(desk.programs.demo(seconds))


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell: eval "$(edge-gateway completion bash)"."""
    kind = get_completion_class(shell)
    if kind is not None:
        root = context.find_root().command
        click.echo(kind(root, {}, PROGRAM, "_EDGE_GATEWAY_COMPLETE").source())
