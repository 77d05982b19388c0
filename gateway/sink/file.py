"""The ``file`` kind: NDJSON of CloudEvents for a local system, or to see what happens."""

from __future__ import annotations

import asyncio
import errno
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from gateway.codec.cloudevents import event_json
from gateway.model.receipt import Answered, Blocked, Failed, RouteState, Verdict, VerdictKind
from gateway.sink.ndjson_file import NdjsonFile, Rotation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome
    from gateway.sink.file_settings import FileSettings
    from gateway.sink.services import SinkServices

__all__ = ["FAULTS", "FileSink", "build"]

_SLICE_EVENTS: Final = 64
_ACCEPTED: Final = Verdict(VerdictKind.ACCEPTED)

#: What the system says -> what the route does. Everything else is "file-io", tried again with full jitter.
FAULTS: Final[Mapping[int, Blocked | Failed]] = {
    errno.ENOSPC: Failed("file-disk-full"),
    errno.EDQUOT: Failed("file-disk-full"),
    errno.EWOULDBLOCK: Failed("file-in-use"),
    errno.EEXIST: Blocked(RouteState.MISCONFIGURED, "file-not-regular"),
    errno.ENXIO: Blocked(RouteState.MISCONFIGURED, "file-not-regular"),
    errno.EISDIR: Blocked(RouteState.MISCONFIGURED, "file-not-regular"),
    errno.ELOOP: Blocked(RouteState.MISCONFIGURED, "file-is-link"),
    errno.EROFS: Blocked(RouteState.MISCONFIGURED, "file-read-only"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), Blocked(RouteState.MISCONFIGURED, "file-not-permitted")),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), Blocked(RouteState.MISCONFIGURED, "file-no-folder")),
}
_OTHER: Final = Failed("file-io")


class FileSink:
    """One route's file. What ``send`` reports as accepted is fsynced; a line may stand twice after a power cut."""

    def __init__(self, settings: FileSettings, services: SinkServices, file: NdjsonFile) -> None:
        self.max_messages = settings.batch.max_messages
        self.max_bytes = settings.batch.max_bytes
        self.linger_s = settings.batch.linger_ms / 1000
        self._services = services
        self._file = file
        self._writing: asyncio.Future[None] | None = None

    def accepts(self, delivery: Delivery) -> bool:
        """Everything has a CloudEvents form."""
        del delivery
        return True

    def prepare(self, batch: Sequence[Delivery]) -> None:
        """Rendering is quick beside the fsync: nothing to do ahead."""

    async def send(self, batch: Sequence[Delivery]) -> Outcome:
        """Append and fsync."""
        services = self._services
        lines: list[bytes] = []
        for start in range(0, len(batch), _SLICE_EVENTS):
            if start:
                await asyncio.sleep(0)
            lines += [event_json(delivery, services.gateway, services.route) for delivery in batch[start : start + _SLICE_EVENTS]]
        lines.append(b"")
        await self._quiet()
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(services.executor, self._file.append, b"\n".join(lines), services.clock.wall_us())
        try:
            await asyncio.shield(self._writing)  # a thread cannot be interrupted
        except OSError as error:
            return FAULTS.get(error.errno or 0, _OTHER)
        return Answered((_ACCEPTED,) * len(batch), "file-fsync")

    async def _quiet(self) -> None:
        """Until no thread uses the file."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    async def close(self) -> None:
        """Close the file; idempotent."""
        await self._quiet()
        await asyncio.get_running_loop().run_in_executor(self._services.executor, self._file.close)


def build(settings: FileSettings, services: SinkServices) -> FileSink:
    """The sink of that ``[[sink]]`` table for one route; the file is opened with the first ``send``."""
    rotation = Rotation(settings.rotate_bytes, timedelta(hours=settings.rotate_hours), settings.keep_files)
    return FileSink(settings, services, NdjsonFile(settings.path, rotation))
