"""MLLP over TLS and mutual TLS, end to end on the loopback."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.observe.events import LogEvent
from tests.source.memory_journal import MemoryJournal
from tests.source.sending import framed, hl7, mllp, until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, dict[str, str]]:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {name: {"file": str(tmp_path / f"{name}.pem")} for name in ("cert", "key", "ca")}


def _client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_messages_travel_over_tls_one_by_one_and_pipelined(authority: trustme.CA, files: dict[str, dict[str, str]]) -> None:
    async with mllp(tls={"cert": files["cert"], "key": files["key"]}) as running, running.sender(_client(authority), "localhost") as sender:
        big = hl7("BIG", rest=b"OBX|1|TX|||" + b"A" * 3_000_000 + b"\r")
        sender.send(framed(hl7("A")))
        await sender.get(1)
        sender.send(framed(*[hl7(f"B{i}") for i in range(100)], big))
        await sender.get(102)
        assert {code for code, _ in sender.codes} == {"AA"}
        assert len(running.journal.stored) == 102


async def test_a_client_without_a_certificate_of_the_ca_gets_no_session(authority: trustme.CA, files: dict[str, dict[str, str]]) -> None:
    tls = {"cert": files["cert"], "key": files["key"], "client_ca": files["ca"]}
    async with mllp(tls=tls) as running:
        stranger = _client(authority)
        trustme.CA().issue_cert("stranger.example").configure_cert(stranger)
        for context in (_client(authority), stranger):
            with pytest.raises((OSError, asyncio.IncompleteReadError, EOFError)):
                await _one_message(running.source.port, context)
        await until(lambda: len(running.log.of(LogEvent.CONNECTION_REFUSED)) == 2)
        assert {fields["code"] for fields in running.log.of(LogEvent.CONNECTION_REFUSED)} == {"tls-failed"}
        assert running.journal.bodies == []
        known = _client(authority)
        authority.issue_cert("monitor.example").configure_cert(known)
        async with running.sender(known, "localhost") as sender:
            sender.send(framed(hl7("A")))
            await sender.get(1)
            assert sender.codes == [("AA", "A")]


async def _one_message(port: int, context: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(framed(hl7("A")))
        return await reader.readuntil(b"\x1c\r")
    finally:
        writer.transport.abort()


async def test_plain_text_on_a_tls_port_ends_without_a_session_and_leaves_nothing(files: dict[str, dict[str, str]]) -> None:
    async with mllp(tls={"cert": files["cert"], "key": files["key"]}) as running, running.sender() as plain:
        plain.send(framed(hl7("A")) * 3)
        assert await plain.end() == []
        await until(lambda: running.log.of(LogEvent.CONNECTION_REFUSED))
        assert running.journal.bodies == []
        assert running.source.counts.turned_away == 1


async def test_unfinished_handshakes_count_as_connections_and_end_with_the_source(files: dict[str, dict[str, str]]) -> None:
    async with mllp(tls={"cert": files["cert"], "key": files["key"]}, max_connections=1) as running, running.sender():
        await asyncio.sleep(0.02)
        async with running.sender() as second:
            await second.end()
        assert [fields["code"] for fields in running.log.of(LogEvent.CONNECTION_REFUSED)] == ["too-many-connections"]


async def test_a_tls_sender_that_closes_before_its_answer_has_its_message_stored(
    authority: trustme.CA, files: dict[str, dict[str, str]]
) -> None:
    journal = MemoryJournal(stalled=True)
    async with mllp(journal, tls={"cert": files["cert"], "key": files["key"]}) as running:
        async with running.sender(_client(authority), "localhost") as sender:
            sender.send(framed(hl7("A")))
            await until(lambda: journal.waiting)
            sender.writer.close()
            await until(lambda: running.source.counts.connections == 0)
        journal.go_on()
        assert journal.bodies == [hl7("A")]
        assert running.source.counts.ack_undelivered == 1
