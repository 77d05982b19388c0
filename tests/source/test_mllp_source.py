"""What the MLLP source promises its senders: the commit first, the order kept, the truth told when nothing can be stored."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gateway.model.errors import CapacityError, ConfigurationError, LockedError, StorageError, TransientError
from gateway.observe.events import LogEvent
from gateway.source.mllp import MllpSource
from gateway.source.mllp_session import SessionTimes
from tests.source.memory_journal import MemoryJournal, services
from tests.source.sending import CR, FS, VT, framed, hl7, mllp, settings, until

if TYPE_CHECKING:
    from tests.source.sending import Running

BAD = hl7("", rest=b"NTE|1||no control id\r")
FULL = CapacityError("journal-full")


def _writes(running: Running) -> list[bytes]:
    """Record every write of the only connection from now on."""
    assert running.source._listener is not None
    (link,) = running.source._listener.links
    writes: list[bytes] = []
    write = link.write

    def recording(data: bytes) -> None:
        writes.append(data)
        write(data)

    link.write = recording  # type: ignore[method-assign]
    return writes


def _arrived(running: Running, waiting: int, refused: int) -> bool:
    return running.journal.waiting == waiting and running.source.counts.refused == refused


# --- the commit first ---


async def test_a_message_is_not_acknowledged_before_its_commit_returns() -> None:
    async with mllp(MemoryJournal(stalled=True)) as running, running.sender() as sender:
        sender.send(framed(hl7("A")))
        await until(lambda: running.journal.waiting)
        assert await sender.settle() == []
        running.journal.go_on()
        await sender.get(1)
        assert sender.codes == [("AA", "A")]


async def test_answers_keep_the_order_of_the_frames_when_refused_stored_and_duplicate_are_mixed() -> None:
    async with mllp(MemoryJournal(stalled=True)) as running, running.sender() as sender:
        steps = [
            (framed(hl7("A"), BAD), 1, 1),
            (framed(BAD), 1, 2),
            (framed(hl7("A"), hl7("B")), 2, 2),
            (VT + FS + CR, 2, 3),
            (framed(hl7("C")), 3, 3),
        ]
        for chunk, waiting, refused in steps:
            sender.send(chunk)
            await until(partial(_arrived, running, waiting, refused))
        assert await sender.settle() == []
        running.journal.go_on()
        await sender.get(7)
        assert sender.codes == [("AA", "A"), ("AR", ""), ("AR", ""), ("AA", "A"), ("AA", "B"), ("AR", ""), ("AA", "C")]
        assert running.journal.bodies == [hl7("A"), hl7("B"), hl7("C")]
        assert running.source.counts.duplicates == 1


async def test_one_chunk_is_one_group_and_the_answers_of_one_commit_are_one_write() -> None:
    async with mllp(MemoryJournal(stalled=True)) as running, running.sender() as sender:
        sender.send(framed(*[hl7(f"A{i}") for i in range(16)]))
        await until(lambda: running.journal.waiting == 1)
        writes = _writes(running)
        sender.send(framed(hl7("B")))
        await until(lambda: running.journal.waiting == 2)
        sender.send(framed(hl7("C"), BAD))
        await until(lambda: running.journal.waiting == 3)
        running.journal.go_on()
        await sender.get(19)
        assert running.journal.groups == [16, 1, 1]
        assert len(writes) == 1


async def test_a_refusal_with_nothing_before_it_does_not_wait_for_the_journal() -> None:
    async with mllp(MemoryJournal(stalled=True)) as running, running.sender() as sender:
        sender.send(framed(BAD))
        await sender.get(1)
        assert sender.codes == [("AR", "")]


async def test_connections_do_not_wait_for_each_other() -> None:
    journal = MemoryJournal()
    async with mllp(journal) as running, running.sender() as one, running.sender() as other:
        one.send(VT + hl7("A")[:50])
        for i in range(20):
            other.send(framed(hl7(f"B{i}")))
            await other.get(i + 1)
        one.send(hl7("A")[50:] + FS + CR)
        await one.get(1)
        assert one.codes == [("AA", "A")]


# --- when nothing can be stored ---


@pytest.mark.parametrize("error", [FULL, StorageError("disk"), LockedError("locked")])
@pytest.mark.parametrize(("ack", "code"), [("original", "AE"), ("enhanced", "CE")])
async def test_storage_trouble_is_an_e_with_207_never_an_r_and_the_sender_may_try_again(error: Exception, ack: str, code: str) -> None:
    journal = MemoryJournal(error=error)  # type: ignore[arg-type]
    async with mllp(journal, ack=ack) as running, running.sender() as sender:
        sender.send(framed(hl7("A"), BAD, hl7("B")))
        await sender.get(3)
        assert sender.codes == [(code, "A"), (code[0] + "R", ""), (code, "B")]
        assert sender.errors == ["207", "101", "207"]
        assert running.source.counts.unable == 2
        assert running.log.of(LogEvent.UNABLE)[0]["code"] == error.code  # type: ignore[attr-defined]
        journal.error = None
        sender.send(framed(hl7("A"), hl7("B")))
        await sender.get(5)
        assert sender.codes[3:] == [(code[0] + "A", "A"), (code[0] + "A", "B")]


async def test_after_a_no_that_connection_is_not_read_for_a_while_and_others_are() -> None:
    journal = MemoryJournal(error=FULL)
    times = SessionTimes(hold_s=0.6)
    async with mllp(journal, times) as running, running.sender() as sender, running.sender() as other:
        for i in range(3):
            sender.send(framed(hl7(f"A{i}")))
            await sender.get(i + 1)
        assert len(running.journal.groups) == 3
        began = asyncio.get_running_loop().time()
        sender.send(framed(hl7("B")))
        other.send(framed(hl7("C")))
        await other.get(1)
        assert asyncio.get_running_loop().time() - began < 0.5
        await sender.get(4)
        assert asyncio.get_running_loop().time() - began >= 0.4


@pytest.mark.parametrize(("when_unable", "codes"), [("nak", [("AE", "A"), ("AR", ""), ("AE", "B")]), ("silent", [("AR", "")])])
async def test_a_refusal_behind_a_failed_commit_is_still_a_refusal(when_unable: str, codes: list[tuple[str, str]]) -> None:
    journal = MemoryJournal(error=FULL, stalled=True)
    async with mllp(journal, when_unable=when_unable) as running, running.sender() as sender:
        for chunk, waiting, refused in ((framed(hl7("A")), 1, 0), (framed(BAD), 1, 1), (framed(hl7("B")), 2, 1)):
            sender.send(chunk)
            await until(partial(_arrived, running, waiting, refused))
        journal.go_on()
        await sender.get(len(codes))
        assert await sender.settle() == sender.answers
        assert sender.codes == codes


async def test_when_unable_close_answers_what_was_stored_before_and_closes() -> None:
    journal = MemoryJournal(stalled=True)
    async with mllp(journal, when_unable="close") as running, running.sender() as sender:
        sender.send(framed(hl7("A")))
        await until(lambda: journal.waiting == 1)
        running.journal.go_on()
        await sender.get(1)
        journal.error = FULL
        journal.stalled = True
        sender.send(framed(hl7("B")))
        await until(lambda: journal.waiting == 1)
        sender.send(framed(BAD))
        await until(lambda: running.source.counts.refused == 1)
        sender.send(framed(hl7("C")))
        await until(lambda: journal.waiting == 2)
        journal.go_on()
        await sender.end()
        sender.writer.close()
        assert sender.codes == [("AA", "A")]
        await until(lambda: running.source.counts.connections == 0)


async def test_when_unable_silent_says_nothing_and_keeps_the_connection() -> None:
    journal = MemoryJournal(error=FULL)
    async with mllp(journal, when_unable="silent") as running, running.sender() as sender:
        sender.send(framed(hl7("A")))
        assert await sender.settle(0.15) == []
        assert not sender.closed
        journal.error = None
        sender.send(framed(hl7("A")))
        await sender.get(1)
        assert sender.codes == [("AA", "A")]
        assert running.source.counts.unable == 1


async def test_msh15_ne_ne_gets_no_word_about_storage_trouble_either() -> None:
    async with mllp(MemoryJournal(error=FULL)) as running, running.sender() as sender:
        sender.send(framed(hl7("A", msh15="NE", msh16="NE")))
        await until(lambda: running.source.counts.unable == 1)
        assert await sender.settle() == []


# --- ends ---


async def test_a_sender_that_closes_its_half_still_gets_its_answers() -> None:
    async with mllp(MemoryJournal(stalled=True)) as running, running.sender() as sender:
        sender.send(framed(hl7("A"), hl7("B")))
        sender.writer.write_eof()
        await until(lambda: running.journal.waiting)
        assert await sender.settle() == []
        running.journal.go_on()
        await sender.end()
        assert sender.codes == [("AA", "A"), ("AA", "B")]


@pytest.mark.parametrize("rest", [VT + hl7("B")[:60], VT, b"half a mess"])
async def test_what_a_sender_leaves_unfinished_is_kept_without_an_answer(rest: bytes) -> None:
    async with mllp() as running, running.sender() as sender:
        sender.send(framed(hl7("A")) + rest)
        sender.writer.write_eof()
        await sender.end()
        assert sender.codes == [("AA", "A")]
        kept = [(refusal.code, refusal.kept) for refusal in running.journal.refusals]
        assert kept == ([("truncated", rest[1:])] if len(rest) > 1 and rest[:1] == VT else [("unframed", rest)] if rest != VT else [])


async def test_a_last_frame_that_only_lacks_its_cr_is_complete_when_the_sender_closes() -> None:
    async with mllp() as running, running.sender() as sender:
        sender.send(VT + hl7("A") + FS)
        sender.writer.write_eof()
        await sender.end()
        assert running.journal.bodies == [hl7("A")]
        assert sender.codes == [("AA", "A")]


async def test_a_sender_that_is_gone_before_its_answer_has_its_message_stored_and_the_resend_is_a_duplicate() -> None:
    journal = MemoryJournal(stalled=True)
    async with mllp(journal) as running:
        async with running.sender() as sender:
            sender.send(framed(hl7("A")))
            await until(lambda: journal.waiting)
            plain: socket.socket = sender.writer.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: running.source.counts.connections == 0)
        journal.go_on()
        assert running.source.counts.ack_undelivered == 1
        async with running.sender() as again:
            again.send(framed(hl7("A")))
            await again.get(1)
            assert again.codes == [("AA", "A")]
        assert journal.bodies == [hl7("A")]
        assert running.source.counts.duplicates == 1


async def test_stopping_answers_what_waits_for_its_commit_and_reads_no_more() -> None:
    journal = MemoryJournal(stalled=True)
    async with mllp(journal) as running, running.sender() as busy, running.sender() as idle:
        busy.send(framed(hl7("A")))
        await until(lambda: journal.waiting == 1)
        await until(lambda: running.source.counts.connections == 2)
        port = running.source.port
        stopping = asyncio.create_task(running.source.stop())
        await idle.end()
        idle.writer.close()
        busy.send(framed(hl7("B")))
        await busy.settle()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        journal.go_on()
        await busy.end()
        busy.writer.close()
        await stopping
        assert busy.codes == [("AA", "A")]
        assert journal.bodies == [hl7("A")]
        assert running.log.of(LogEvent.SOURCE_STOPPED) == [{"source": "adt"}]
        assert running.source.counts.refused == 0


async def test_a_journal_that_never_answers_does_not_keep_the_source_from_stopping() -> None:
    async with mllp(MemoryJournal(stalled=True)) as running, running.sender() as sender:
        sender.send(framed(hl7("A")))
        await until(lambda: running.journal.waiting)
        await running.source.stop(0.05)
        assert await sender.end() == []


async def test_a_stopped_source_can_be_started_again_and_a_port_in_use_is_a_typed_error() -> None:
    async with mllp() as running:
        other = MllpSource(settings(listen=f"127.0.0.1:{running.source.port}"), MemoryJournal(), services())
        with pytest.raises(TransientError) as caught:
            await other.start()
        assert caught.value.code == "listen-in-use"
        await other.stop()
        await running.source.stop()
        await running.source.start()
        async with running.sender() as sender:
            sender.send(framed(hl7("A")))
            await sender.get(1)


async def test_what_happens_is_told_without_content() -> None:
    async with mllp(max_connections=1) as running:
        async with running.sender() as sender:
            sender.send(framed(hl7("A"), hl7("A", rest=b"PID|1||2\r"), BAD))
            await sender.get(3)
            async with running.sender() as second:
                await second.end()
        await until(lambda: running.source.counts.connections == 0)
        told = [event for event, _ in running.log.events]
        assert told == [
            LogEvent.SOURCE_LISTENING,
            LogEvent.CONNECTION_OPENED,
            LogEvent.FRAME_REFUSED,
            LogEvent.CONTROL_ID_REUSED,
            LogEvent.CONNECTION_REFUSED,
            LogEvent.CONNECTION_CLOSED,
        ]
        for event, fields in running.log.events:
            assert set(fields) <= set(event.spec.fields)
        assert (running.source.counts.turned_away, running.source.counts.reused_control_ids) == (1, 1)


# --- limits of the settings ---


async def test_an_address_outside_the_allow_list_is_turned_away() -> None:
    async with mllp(allow=["10.0.0.0/8"]) as running, running.sender() as sender:
        await sender.end()
        assert running.log.of(LogEvent.CONNECTION_REFUSED) == [{"source": "adt", "peer": "127.0.0.1", "code": "address-not-allowed"}]


@pytest.mark.parametrize(
    ("allowed", "welcome"),
    [
        ({"app": "MON", "facility": "ICU"}, True),
        ({"app": "MON"}, True),
        ({"facility": "ICU"}, True),
        ({"app": "MON", "facility": "ER"}, False),
        ({"app": "mon"}, False),
        ({"app": "GW"}, False),
    ],
)
@pytest.mark.parametrize("ack", ["original", "enhanced"])
async def test_only_listed_senders_may_send(allowed: dict[str, str], ack: str, *, welcome: bool) -> None:
    letter = "A" if ack == "original" else "C"
    async with mllp(senders=[{"app": "OTHER"}, allowed], ack=ack) as running, running.sender() as sender:
        for i in range(3):  # also when the header is familiar
            sender.send(framed(hl7(f"A{i}")))
            await sender.get(i + 1)
        if welcome:
            assert sender.codes == [(f"{letter}A", f"A{i}") for i in range(3)]
        else:
            assert sender.codes == [(f"{letter}R", f"A{i}") for i in range(3)]
            assert sender.errors == ["103"] * 3
            assert [refusal.code for refusal in running.journal.refusals] == ["sender-not-allowed"] * 3
            assert running.journal.bodies == []


async def test_a_sender_is_known_by_the_first_component_of_its_name_too() -> None:
    body = hl7("A").replace(b"|MON|", b"|MON^1.2.3^ISO|")
    async with mllp(senders=[{"app": "MON"}]) as running, running.sender() as sender:
        sender.send(framed(body, body.replace(b"MON^", b"MONO^")))
        await sender.get(2)
        assert sender.codes == [("AA", "A"), ("AR", "A")]


async def test_a_silent_connection_is_closed_but_not_while_we_owe_an_answer() -> None:
    async with mllp(MemoryJournal(stalled=True), idle_timeout_s=0.1) as running, running.sender() as silent, running.sender() as waiting:
        waiting.send(framed(hl7("A")))
        await silent.end()
        assert await waiting.settle(0.15) == []
        assert not waiting.closed
        running.journal.go_on()
        await waiting.end()
        assert waiting.codes == [("AA", "A")]
        assert {fields["cause"] for fields in running.log.of(LogEvent.CONNECTION_CLOSED)} <= {"idle"}


@pytest.mark.parametrize("start", [VT + b"MSH|^~\\&|", b"junk without a frame"])
async def test_a_frame_that_trickles_in_is_cut_off_at_its_deadline_and_kept(start: bytes) -> None:
    async with mllp(frame_timeout_s=0.15) as running, running.sender() as sender:
        sender.send(framed(hl7("A")) + start)
        for _ in range(100):
            sender.send(b"x")
            await sender.settle(0.01)
            if sender.closed:
                break
        assert sender.closed
        assert sender.codes == [("AA", "A")]
        (refusal,) = running.journal.refusals
        assert refusal.code == ("truncated" if start[:1] == VT else "unframed")
        assert refusal.kept.startswith(start.lstrip(VT))


async def test_a_frame_without_an_end_is_refused_and_its_connection_closed_at_the_discard_cap() -> None:
    async with mllp(max_message_bytes=1_000_000) as running, running.sender() as sender:
        sender.send(VT + hl7("BIG")[:-1])
        chunk = b"A" * 1_000_000
        for _ in range(80):
            sender.send(chunk)
            await sender.settle(0.001)
            if sender.answers:
                break
        await sender.end()
        assert sender.codes == [("AR", "BIG")]
        assert sender.errors == ["104"]
        assert [refusal.code for refusal in running.journal.refusals] == ["too-large"]


async def test_a_credential_that_systemd_did_not_pass_is_a_configuration_error() -> None:
    tls = {"cert": {"credential": "cert"}, "key": {"credential": "key"}}
    source = MllpSource(settings(tls=tls), MemoryJournal(), services())
    with pytest.raises(ConfigurationError) as caught:
        await source.start()
    assert [issue.path for issue in caught.value.issues] == ["tls.cert", "tls.key"]
