"""``edge-gateway receive``: run the reference receiver in the foreground until a signal, or for a while."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from gateway.model.errors import ConfigurationError, GatewayError, Issue, UnavailableError
from gateway.receiver.lines import Tally, counts, json_voice, plain_voice, rich_voice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import click

    from gateway.model.clock import Clock
    from gateway.receiver.lines import Fact, Voice
    from gateway.receiver.server import ReceiverSettings

__all__ = ["DEFAULT_LISTEN", "ReceiveOptions", "receive", "receive_command", "receiver_settings"]

DEFAULT_LISTEN: Final = "127.0.0.1:8765"
_TELL_EVERY_S: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_EXIT_CODES: Final = ((ConfigurationError, 3), (UnavailableError, 5), (GatewayError, 1))


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """The options as given. ``for_s`` None: until a signal. ``as_json`` and ``terminal`` choose the form of the lines."""

    listen: str
    store: Path
    keep_payloads: bool = False
    as_json: bool = False
    for_s: float | None = None
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    terminal: bool = False


def receiver_settings(options: ReceiveOptions) -> ReceiverSettings:
    """The settings that the options mean, secrets read from their files. Raises: ConfigurationError with every problem."""
    from gateway.receiver.server import ReceiverSettings  # aiohttp: only who receives pays for it

    issues: list[Issue] = []
    host, port = _listen(options.listen, issues)
    token = _token(options.token_file, issues)
    if (options.cert is None) != (options.key is None):
        issues.append(Issue("--cert, --key", "certificate and key only work together", "give both, or neither"))
    if issues:
        raise ConfigurationError(tuple(issues))
    return ReceiverSettings(options.store, host, port, options.keep_payloads, token, options.cert, options.key)


def _listen(text: str, issues: list[Issue]) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        issues.append(Issue("--listen", "not an address", f"write HOST:PORT, such as {DEFAULT_LISTEN} or [::1]:8765"))
        return "", 0
    return host, int(port)


def _token(file: Path | None, issues: list[Issue]) -> bytes | None:
    if file is None:
        return None
    try:
        token = file.read_bytes().strip()
    except OSError:
        issues.append(Issue("--token-file", "the file cannot be read", "give a file with the token on one line"))
        return None
    if not token or not token.isascii() or len(token.split()) != 1:
        issues.append(Issue("--token-file", "not one token", "write one line of printable ASCII without blanks"))
    return token


def _warnings(settings: ReceiverSettings) -> list[str]:
    """What whoever starts it this way should know."""
    found = []
    if not _is_loopback(settings.host):
        if settings.token is None:
            found.append("anybody who reaches this address can send events: give --token-file")
        if settings.cert is None:
            found.append("events travel in clear to this address: give --cert and --key")
    if settings.keep_payloads:
        found.append("the content of every event is kept in clear in the store (mode 0600)")
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def receive(options: ReceiveOptions, clock: Clock, out: TextIO, errors: TextIO) -> int:
    """Run until SIGTERM, SIGINT or the end of ``for_s``; stop in order; return the exit code.

    0 done, 1 the store cannot be used, 3 options, 5 the address or the store is in use.
    """
    try:
        settings = receiver_settings(options)
        await _run(settings, options, clock, out)
    except GatewayError as fault:
        errors.writelines(f"edge-gateway receive: {line}\n" for line in _complaint(fault))
        return next(code for kind, code in _EXIT_CODES if isinstance(fault, kind))
    return 0


def _complaint(fault: GatewayError) -> list[str]:
    if isinstance(fault, ConfigurationError):
        return [f"{issue.path}: {issue.reason}; {issue.fix}" for issue in fault.issues]
    return [str(fault)]


async def _run(settings: ReceiverSettings, options: ReceiveOptions, clock: Clock, out: TextIO) -> None:
    from gateway.receiver.server import ReferenceReceiver

    tell = _voice(options, out)
    tally = Tally()
    receiver = ReferenceReceiver(settings, clock, on_batch=tally.note)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        await receiver.start()
        tally.begin(receiver.totals)
        tell(clock.wall_us(), {"fact": "listening", "url": receiver.url, "store": str(settings.store)})
        for text in _warnings(settings):
            tell(clock.wall_us(), {"fact": "warning", "text": text})
        async for _ in _ticks(stop, clock, options.for_s):
            for fact in tally.facts(receiver.totals):
                tell(clock.wall_us(), fact)
    finally:
        await receiver.stop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    final: Fact = {"fact": "stopped", **counts(receiver.totals)}
    for fact in (*tally.facts(receiver.totals), final):
        tell(clock.wall_us(), fact)


async def _ticks(stop: asyncio.Event, clock: Clock, for_s: float | None) -> AsyncIterator[None]:
    """Once a second, until ``stop`` is set or ``for_s`` is over."""
    end_s = math.inf if for_s is None else clock.monotonic_s() + for_s
    while (left_s := min(_TELL_EVERY_S, end_s - clock.monotonic_s())) > 0:
        try:
            async with asyncio.timeout(left_s):
                await stop.wait()
        except TimeoutError:
            yield
        else:
            return


def _voice(options: ReceiveOptions, out: TextIO) -> Voice:
    if options.as_json:
        return json_voice(out)
    return rich_voice(out) if options.terminal else plain_voice(out)


def receive_command(clock: Clock) -> click.Command:
    """The command for the group of ``admin``; click is imported here, the daemon never needs it."""
    import click

    @click.command("receive", short_help="Run the reference receiver of the cloud side.")
    @click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where to listen.")
    @click.option(
        "--store", type=click.Path(path_type=Path, file_okay=False), required=True, metavar="DIR", help="Where the books are kept."
    )
    @click.option("--keep-payloads", is_flag=True, help="Keep the content of events too, in clear, mode 0600.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
    @click.option("--for", "for_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Stop by itself after that time.")
    @click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Take only requests with this bearer token.")
    @click.option("--cert", type=click.Path(path_type=Path), metavar="FILE", help="TLS certificate with its intermediates (PEM).")
    @click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Its private key (PEM).")
    def command(**given: Any) -> None:
        """Receive events, apply each exactly once, report duplicates, conflicts and gaps.

        A reference for the people who build the real one: POST /v1/events takes batches, GET /v1/state tells what is there,
        GET /v1/openapi.json is the contract.
        """
        options = ReceiveOptions(**given, terminal=sys.stdout.isatty())
        click.get_current_context().exit(asyncio.run(receive(options, clock, sys.stdout, sys.stderr)))

    return command
