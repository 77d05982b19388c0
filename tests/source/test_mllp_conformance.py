"""The MLLP conformance table, row by row: each case is one send, judged by its answers, by what is stored and by what is kept.

A = accepted, stored byte for byte. The connection stays open unless the case says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.model.limits import REFUSED_KEEP_BYTES
from tests.source.sending import CR, FS, VT, fields_of, framed, hl7, mllp, until

G1, G2, G3 = hl7("G1"), hl7("G2"), hl7("G3")
BOM = b"\xef\xbb\xbf"
BIG = hl7("BIG", rest=b"OBX|1|TX|||" + b"A" * 40_000 + b"\r")
NO_CONTROL_ID = hl7("", rest=b"NTE|1||no control id\r")
ACK = b"MSH|^~\\&|MON|ICU|GW|HOSP|20261122120000||ACK^A01|K1|P|2.5.1\rMSA|AA|123\r"
ORR = hl7("K2", kind="ORR^O02", rest=b"MSA|AA|123\r")
ACK_WITH_ACCEPT = ACK.replace(b"|P|2.5.1\r", b"|P|2.5.1|||AL|NE\r").replace(b"|K1|", b"|K3|")
BATCH_HEAD, BATCH_TAIL = b"FHS|^~\\&|A|B\rBHS|^~\\&|A|B\r", b"BTS|2\rFTS|1\r"
CHILDREN = (hl7("C1"), hl7("C2"))
STARS = b"MSH!*~\\&!MON!ICU!GW!HOSP!20261122!!ADT*A01!S1!P!2.5.1\rPID!1!!100001*!!!\r"

AA = "AA"
AR = "AR"


@dataclass(frozen=True)
class Case:
    """``answers``: (MSA-1, MSA-2, ERR-3 or ""); ``refused``: codes of what was kept."""

    name: str
    sent: bytes
    answers: list[tuple[str, str, str]]
    stored: list[bytes]
    refused: list[str] | None = None


def ok(control: str, code: str = AA) -> tuple[str, str, str]:
    return (code, control, "")


CASES = [
    Case(
        "1 a malformed frame between two good ones",
        framed(G1) + VT + b"HELLO\r" + FS + CR + framed(G2),
        [ok("G1"), (AR, "", "100"), ok("G2")],
        [G1, G2],
        ["no-header"],
    ),
    Case("2 an empty frame", framed(G1) + VT + FS + CR + framed(G2), [ok("G1"), (AR, "", "100"), ok("G2")], [G1, G2], ["empty-frame"]),
    Case("3 LF, NUL, spaces and CR between frames", framed(G1) + b"\n\n \x00\r" + framed(G2), [ok("G1"), ok("G2")], [G1, G2]),
    Case("4a FS without CR, then VT", VT + G1 + FS + framed(G2), [ok("G1"), ok("G2")], [G1, G2]),
    Case("4b FS without CR, then silence", VT + G1 + FS, [ok("G1")], [G1]),
    Case("4c FS with LF", VT + G1 + FS + b"\n" + framed(G2), [ok("G1"), ok("G2")], [G1, G2]),
    Case(
        "4d FS inside the data",
        framed(G1.replace(b"DOE", b"D\x1cE")) + framed(G2),
        [ok("G1"), ok("G2")],
        [G1.replace(b"DOE", b"D\x1cE"), G2],
    ),
    Case("5a LF separators", framed(G1.replace(CR, b"\n")), [ok("G1")], [G1.replace(CR, b"\n")]),
    Case("5b CRLF separators", framed(G1.replace(CR, b"\r\n")), [ok("G1")], [G1.replace(CR, b"\r\n")]),
    Case("5c no last separator", framed(G1[:-1]), [ok("G1")], [G1[:-1]]),
    Case("6 declared Latin-1", framed(m := hl7("L", charset="8859/1", rest=b"PID|1||7||M\xfcller\r")), [ok("L")], [m]),
    Case("7 undeclared bytes that are not UTF-8", framed(m := hl7("L", rest=b"PID|1||7||M\xfcller\xff\r")), [ok("L")], [m]),
    Case("8a no MSH-10", framed(NO_CONTROL_ID, G1), [(AR, "", "101"), ok("G1")], [G1], ["no-control-id"]),
    Case("8b no MSH-9", framed(hl7("N", kind=""), G1), [(AR, "N", "101"), ok("G1")], [G1], ["no-message-type"]),
    Case("9a original mode", framed(hl7("M")), [ok("M")], [hl7("M")]),
    Case("9b AL/NE", framed(m := hl7("M", msh15="AL", msh16="NE")), [ok("M", "CA")], [m]),
    Case("9c AL/AL", framed(m := hl7("M", msh15="AL", msh16="AL")), [ok("M", "CA"), ok("M", AA)], [m]),
    Case("9d NE/AL", framed(m := hl7("M", msh15="NE", msh16="AL")), [ok("M", AA)], [m]),
    Case(
        "9e NE/NE: not a word, also not about an error",
        framed(m := hl7("M", msh15="NE", msh16="NE"), hl7("", msh15="NE", msh16="NE")),
        [],
        [m],
        ["no-control-id"],
    ),
    Case("9f ER: only on failure", framed(m := hl7("M", msh15="ER"), hl7("", msh15="ER")), [("CR", "", "101")], [m], ["no-control-id"]),
    Case("9g SU: only on success", framed(m := hl7("M", msh15="SU"), hl7("", msh15="SU")), [ok("M", "CA")], [m], ["no-control-id"]),
    Case("9h empty/AL", framed(m := hl7("M", msh16="AL")), [ok("M", AA)], [m]),
    Case("9i unknown/NE counts as AL", framed(m := hl7("M", msh15="??", msh16="NE")), [ok("M", "CA")], [m]),
    Case("10 twice the same", framed(G1, G1), [ok("G1"), ok("G1")], [G1]),
    Case("10b again with another MSH-7", framed(G1, G1.replace(b"20261122120000", b"20261122120001")), [ok("G1"), ok("G1")], [G1]),
    Case("11 same id, other content", framed(G1, m := hl7("G1", rest=b"PID|1||8\r")), [ok("G1"), ok("G1")], [G1, m]),
    Case("12a a batch", framed(BATCH_HEAD + b"".join(CHILDREN) + BATCH_TAIL), [ok("C1"), ok("C2")], list(CHILDREN)),
    Case("12b two MSH without a batch header", framed(b"".join(CHILDREN)), [ok("C1"), ok("C2")], list(CHILDREN)),
    Case("12c a batch whose counts do not fit", framed(BATCH_HEAD + CHILDREN[0] + BATCH_TAIL), [ok("C1")], [CHILDREN[0]]),
    Case(
        "12d an unusable child",
        framed(BATCH_HEAD + CHILDREN[0] + NO_CONTROL_ID + CHILDREN[1] + b"BTS|3\r"),
        [ok("C1"), (AR, "", "101"), ok("C2")],
        list(CHILDREN),
        ["no-control-id"],
    ),
    Case("12e an empty batch", framed(b"FHS|^~\\&|A|B|C|D|2026||||F1\rBHS|^~\\&|A|B|C|D|2026||||B1\rBTS|0\rFTS|1\r"), [ok("F1")], []),
    Case("13 a message without a frame", G1 + FS + CR + framed(G2), [ok("G2")], [G2], ["unframed"]),
    Case("14 oversize", framed(BIG, G1), [(AR, "BIG", "104"), ok("G1")], [G1], ["too-large"]),
    Case("15 five encoding characters", framed(m := G1.replace(b"^~\\&", b"^~\\&#")), [ok("G1")], [m]),
    Case("16a other delimiters", framed(STARS), [], [STARS]),
    Case("16b only three encoding characters", framed(m := G1.replace(b"^~\\&", b"^~\\")), [ok("G1")], [m]),
    Case(
        "16c a delimiter twice", framed(G1.replace(b"^~\\&", b"^^\\&"), G2), [(AR, "G1", "102"), ok("G2")], [G2], ["ambiguous-delimiters"]
    ),
    Case("17 a BOM", framed(BOM + G1), [ok("G1")], [BOM + G1]),
    Case("18a first segment not MSH", framed(b"PID|1||100001\r", G1), [(AR, "", "100"), ok("G1")], [G1], ["no-header"]),
    Case("18b an odd segment name", framed(m := hl7("Z", rest=b"pid|1||7\robx|1\r")), [ok("Z")], [m]),
    Case("19a an acknowledgement is never acknowledged", framed(ACK, G1), [ok("G1")], [ACK, G1]),
    Case("19b nor what carries an MSA", framed(ORR, G1), [ok("G1")], [ORR, G1]),
    Case("19c but for the accept ack it asks for", framed(ACK_WITH_ACCEPT), [ok("K3", "CA")], [ACK_WITH_ACCEPT]),
    Case("a sender that starts over", VT + G1[:40] + framed(G2), [ok("G2")], [G2], ["truncated"]),
    Case("fifty in one send", framed(*(many := [hl7(f"P{i}") for i in range(50)])), [ok(f"P{i}") for i in range(50)], many),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
@pytest.mark.parametrize("chunk", ["whole", "byte by byte"])
async def test_conformance_row(case: Case, chunk: str) -> None:
    async with mllp(max_message_bytes=20_000, ack="msh") as running, running.sender() as sender:
        if chunk == "whole":
            sender.send(case.sent)
        else:
            sessions = running.source._listener
            assert sessions is not None
            await sender.get(0)
            while not sessions.links:
                await sender.settle(0.005)
            (link,) = sessions.links
            session = link._session
            assert session is not None
            for i in range(len(case.sent)):
                session.received(case.sent[i : i + 1])
        await sender.get(len(case.answers))
        await until(lambda: len(running.journal.stored) == len(case.stored))
        await sender.settle()
        if case.name.startswith("16a"):  # the answer speaks the sender's delimiters
            assert fields_of(sender.answers[0], b"MSA") == [b"MSA", b"AA", b"S1"]
        else:
            assert [(*pair, error) for pair, error in zip(sender.codes, sender.errors, strict=True)] == case.answers
        assert running.journal.bodies == case.stored
        assert [refusal.code for refusal in running.journal.refusals] == (case.refused or [])
        assert running.source.counts.refused == len(case.refused or [])
        assert not sender.closed


async def test_every_answer_ends_each_segment_with_cr_and_has_an_id_of_its_own() -> None:
    async with mllp() as running, running.sender() as sender:
        sender.send(framed(G1, G2, G3) + VT + b"HELLO\r" + FS + CR + framed(hl7("M", msh15="AL", msh16="AL")))
        answers = await sender.get(6)
        assert all(answer.endswith(CR) for answer in answers)
        assert len({fields_of(answer, b"MSH")[9] for answer in answers}) == 6
        assert fields_of(answers[0], b"MSH")[2:6] == [b"GW", b"HOSP", b"MON", b"ICU"]


async def test_an_answer_never_quotes_the_content_and_what_was_refused_is_kept() -> None:
    canary = b"CANARY-DOE-100042"
    async with mllp(max_message_bytes=1024) as running, running.sender() as sender:
        sent = [b"QQQ|" + canary, hl7("", rest=b"PID|1||" + canary), hl7("B", rest=canary * 100), b""]
        sender.send(framed(*sent) + canary + framed(G1))
        answers = await sender.get(5)
        assert not any(canary in answer for answer in answers)
        kept = [refusal.kept for refusal in running.journal.refusals]
        assert kept == [*sent, canary]
        assert all(refusal.peer == "127.0.0.1" and refusal.source == "adt" for refusal in running.journal.refusals)
        assert canary.decode() not in repr(running.log.events)


async def test_of_a_huge_frame_only_the_beginning_is_kept_and_the_neighbour_is_served() -> None:
    async with mllp() as running, running.sender() as sender, running.sender() as neighbour:
        big = hl7("BIG", rest=b"OBX|1|TX|||" + b"A" * 18_000_000)
        sender.send(framed(big))
        for i in range(10):
            neighbour.send(framed(hl7(f"N{i}")))
            await neighbour.get(i + 1)
        await sender.get(1)
        assert sender.codes == [("AR", "BIG")]
        (refusal,) = running.journal.refusals
        assert refusal.kept == big[:REFUSED_KEEP_BYTES]
        assert refusal.size_bytes == len(big)
        sender.send(framed(G1))
        await sender.get(2)
        assert sender.codes[1] == ("AA", "G1")


async def test_the_children_of_a_batch_are_appended_in_one_group_and_the_first_carries_the_envelope() -> None:
    async with mllp() as running, running.sender() as sender:
        sender.send(framed(BATCH_HEAD + b"".join(CHILDREN) + BATCH_TAIL))
        await sender.get(2)
        assert running.journal.groups == [2]
        assert [entry.envelope for entry in running.journal.stored] == [BATCH_HEAD + BATCH_TAIL, b""]


async def test_each_message_carries_what_the_journal_needs_to_know_of_it() -> None:
    body = hl7("G1", kind="ADT^A01", charset="8859/1")
    async with mllp() as running, running.sender() as sender:
        for i in range(3):  # unknown, seen, familiar: the same every time
            sender.send(framed(body.replace(b"G1", b"G%d" % i)))
            await sender.get(i + 1)
        for i, entry in enumerate(running.journal.stored):
            assert (entry.source, entry.kind, entry.traffic.label) == ("adt", "hl7.v2.ADT.A01", "adt")
            assert entry.identity == (b"MON", b"ICU", b"G%d" % i)
            assert entry.body[slice(*entry.restamp)] == b"20261122120000"
            assert entry.charset == "iso-8859-1"
            assert entry.ordering == b"100001\x1fH"


async def test_a_source_can_set_the_class_of_all_its_messages() -> None:
    async with mllp(traffic="vitals") as running, running.sender() as sender:
        sender.send(framed(G1, G2, G3))
        await sender.get(3)
        assert {entry.traffic.label for entry in running.journal.stored} == {"vitals"}


@pytest.mark.parametrize(("mode", "good", "bad"), [("original", "AA", "AR"), ("enhanced", "CA", "CR")])
async def test_a_fixed_mode_does_not_ask_the_header(mode: str, good: str, bad: str) -> None:
    async with mllp(ack=mode) as running, running.sender() as sender:
        sender.send(framed(hl7("M", msh15="NE", msh16="NE"), hl7("", msh15="AL", msh16="AL")))
        await sender.get(2)
        assert sender.codes == [(good, "M"), (bad, "")]
