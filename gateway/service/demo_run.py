"""Sets the stage of the demo: state directory, daemon process, receiver, link, senders; and clears it away again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.admin.place import SocketPlaces
from gateway.admin.remote import find_daemon
from gateway.journal.key_provider import write_new_kek
from gateway.model.errors import UnavailableError
from gateway.receiver.server import ReceiverSettings, ReferenceReceiver
from gateway.service.demo import DEFAULT_S, Demo, DemoPlan, Reckoning
from gateway.service.demo_link import Link
from gateway.service.demo_sender import DemoSender
from gateway.service.demo_traffic import SYSTEMS, Department
from gateway.service.demo_view import DemoView
from gateway.service.system_clock import SystemClock, SystemRandomness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["demo"]

_RATE_PER_S: Final = 25.0
_START_S: Final = 15.0
_STOP_S: Final = 15.0
_CONFIGURATION: Final = """\
[gateway]
id = "demo"
state_dir = "state"

[keys]
provider = "file"
path = "keys/kek"

[admin]
listen = "127.0.0.1:{admin}"

[[source]]
name = "departments"
type = "mllp"
listen = "127.0.0.1:{port}"

[[sink]]
name = "cloud"
type = "https"
url = "http://127.0.0.1:{link}/v1/events"

[[route]]
name = "everything"
from = "*"
to = "cloud"
"""


def demo(seconds: float | None) -> int:
    """Play the demo for so long (default: 45 s); 0 only if the books are equal."""
    with tempfile.TemporaryDirectory(prefix="edge-gateway-demo-") as folder:
        reckoning = asyncio.run(_play(Path(folder), DemoPlan(seconds or DEFAULT_S)))
    print(f"accepted={reckoning.accepted} delivered={reckoning.delivered}")  # noqa: T201 -- the result, for people and scripts
    return 0 if reckoning.equal else 1


async def _play(folder: Path, plan: DemoPlan) -> Reckoning:
    clock = SystemClock()
    receiver = ReferenceReceiver(ReceiverSettings(folder / "receiver", "127.0.0.1", 0), clock)
    await receiver.start()
    link = Link(receiver.address[1])
    await link.plug_in()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with _daemon(folder, link.port) as port:
            senders = [DemoSender(Department(name), port, _RATE_PER_S, clock) for name in SYSTEMS]
            with DemoView() as view:
                return await Demo(clock, plan, receiver, link, _status_of(folder / "state"), senders, view, stop).play()
    finally:
        await link.cut()
        await receiver.stop()


def _status_of(state_dir: Path) -> Any:
    places = SocketPlaces(state_dir, os.environ, os.geteuid())

    def ask() -> dict[str, Any]:
        if (daemon := find_daemon(places)) is None:
            raise UnavailableError("not-running", "the demo's daemon does not answer")
        return dict(next(iter(daemon.rows("status", {}))))

    async def status() -> dict[str, Any]:
        return await asyncio.to_thread(ask)

    return status


@contextlib.asynccontextmanager
async def _daemon(folder: Path, link_port: int) -> AsyncIterator[int]:
    """The real program as its own process; yields the port that departments send to."""
    port, admin = await _free_port(), await _free_port()
    write_new_kek(folder / "keys" / "kek", SystemRandomness())
    configuration = folder / "gateway.toml"
    configuration.write_text(_CONFIGURATION.format(admin=admin, port=port, link=link_port))
    with (folder / "daemon.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "run", "-c", str(configuration), stdout=log, stderr=log, start_new_session=True
        )
    try:
        await _listening(process, port)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _free_port() -> int:
    probe = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port: int = probe.sockets[0].getsockname()[1]
    probe.close()
    await probe.wait_closed()
    return port


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Wait until the daemon takes connections. Raises ``UnavailableError`` where it ends or stays silent."""
    async with asyncio.timeout(_START_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
    raise UnavailableError("demo-daemon-ended", "the gateway ended while starting; `edge-gateway run` on a configuration of yours says why")
