"""A running MLLP source over a journal in memory, and a blunt client that talks to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.source.mllp import MllpSource
from gateway.source.mllp_session import SessionTimes
from gateway.source.mllp_settings import MllpSettings
from tests.source.memory_journal import ListLog, MemoryJournal, services

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from gateway.transport.byte_budget import ByteBudget

VT, FS, CR = b"\x0b", b"\x1c", b"\r"
QUICK = SessionTimes(lone_fs_s=0.03, hold_s=0.1)


def hl7(control: str, kind: str = "ORU^R01", msh15: str = "", msh16: str = "", charset: str = "", rest: bytes = b"") -> bytes:
    """A small synthetic message."""
    tail = f"|||{msh15}|{msh16}||{charset}".rstrip("|")
    header = f"MSH|^~\\&|MON|ICU|GW|HOSP|20261122120000||{kind}|{control}|P|2.5.1{tail}\r"
    return header.encode() + (rest or b"PID|1||100001^^^H^MR||DOE^JANE\rOBX|1|NM|8867-4^HR^LN||61|/min|||||F\r")


def framed(*bodies: bytes) -> bytes:
    return b"".join(VT + body + FS + CR for body in bodies)


def fields_of(answer: bytes, segment: bytes) -> list[bytes]:
    """The fields of the first such segment of an answer; the separator is the answer's own."""
    for line in answer.split(CR):
        if line.startswith(segment):
            return line.split(answer[3:4])
    return []


@dataclass(eq=False)
class Sender:
    """One connection. ``answers``: the whole answers so far, without their frames."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answers: list[bytes] = field(default_factory=list)
    closed: bool = False
    _rest: bytes = b""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def get(self, count: int, within_s: float = 5.0) -> list[bytes]:
        """Wait for ``count`` answers in all, or the end of the connection."""
        async with asyncio.timeout(within_s):
            while len(self.answers) < count and not self.closed:
                await self._read()
        return self.answers

    async def settle(self, quiet_s: float = 0.08) -> list[bytes]:
        """Whatever comes until the line is quiet."""
        with suppress(TimeoutError):
            while not self.closed:
                async with asyncio.timeout(quiet_s):
                    await self._read()
        return self.answers

    async def end(self, within_s: float = 5.0) -> list[bytes]:
        """Wait for the end of the connection."""
        async with asyncio.timeout(within_s):
            while not self.closed:
                await self._read()
        return self.answers

    async def _read(self) -> None:
        try:
            data = await self.reader.read(65536)
        except ConnectionError:
            data = b""
        self.closed = not data
        *whole, self._rest = (self._rest + data).split(FS + CR)
        assert all(answer.startswith(VT) for answer in whole)
        self.answers += [answer[1:] for answer in whole]

    @property
    def codes(self) -> list[tuple[str, str]]:
        """(MSA-1, MSA-2) of each answer."""
        pairs = [[*fields_of(answer, b"MSA"), b"?", b"?", b"?"][1:3] for answer in self.answers]
        return [(code.decode(), control.decode("latin-1")) for code, control in pairs]

    @property
    def errors(self) -> list[str]:
        """ERR-3.1 of each answer, "" where there is none."""
        found = [fields_of(answer, b"ERR") for answer in self.answers]
        return [fields[3].split(b"^")[0].decode() if len(fields) > 3 else "" for fields in found]


@dataclass(eq=False)
class Running:
    """A started source and what it appends to."""

    source: MllpSource
    journal: MemoryJournal
    log: ListLog

    @asynccontextmanager
    async def sender(self, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> AsyncIterator[Sender]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.source.port, ssl=tls, server_hostname=server_name)
        try:
            yield Sender(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


def settings(**changes: object) -> MllpSettings:
    if "traffic" in changes:
        changes["class"] = changes.pop("traffic")  # a word of Python in the configuration file
    return MllpSettings.model_validate({"name": "adt", "type": "mllp", "listen": "127.0.0.1:0", **changes})


@asynccontextmanager
async def mllp(
    journal: MemoryJournal | None = None, times: SessionTimes = QUICK, budget: ByteBudget | None = None, **changes: object
) -> AsyncIterator[Running]:
    """A source with those settings; ended at the end, with all its connections."""
    log = ListLog()
    journal = journal or MemoryJournal()
    source = MllpSource(settings(**changes), journal, services(budget, log), times)
    await source.start()
    try:
        yield Running(source, journal, log)
    finally:
        await source.stop(0.5)
        assert source.counts.connections == 0


async def until(truth: Callable[[], object], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not truth():
            await asyncio.sleep(0.002)
