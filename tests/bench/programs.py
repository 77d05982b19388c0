"""Starts what is measured: the gateway in a folder of its own, and the servers it is compared with."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.blackbox.destination import free_port
from tests.blackbox.gateway_process import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DEFAULT_BATCH", "bench_gateway", "python_server", "scratch"]

ROOT = Path(__file__).parents[2]
#: The defaults of the ``https`` sink, written out.
DEFAULT_BATCH = "{ max_messages = 500, max_bytes = 262144, linger_ms = 200 }"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk that TMPDIR names: what it stands on is what is measured."""
    with tempfile.TemporaryDirectory(prefix="edge-gateway-bench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def bench_gateway(folder: Path, url: str = "", name: str = "gw", **more: Any) -> Iterator[Gateway]:
    """A running gateway on default settings; without ``url`` its destination refuses connections."""
    gateway = Gateway(folder / name, url or f"http://127.0.0.1:{free_port()}/v1/events", batch=DEFAULT_BATCH, **more)
    gateway.init().start()
    try:
        yield gateway
    finally:
        gateway.kill()


@contextlib.contextmanager
def python_server(module: str, *arguments: str, port: int = 0) -> Iterator[tuple[int, int]]:
    """A server module of this package; its port and process id."""
    port = port or free_port()
    process = subprocess.Popen([sys.executable, "-m", module, str(port), *arguments], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield port, process.pid
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()
