"""Answers: the whole table of MSH-15 and MSH-16, the bytes of each form, and reading those of others."""

from __future__ import annotations

import hl7  # an independent reader
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.acknowledgement import AckBuilder, AckCode, AckMode, AckOutcome, Reply, answers, hl7_time, parse_reply
from gateway.codec.message_header import UNKNOWN_HEADER, Header, HeaderFault, scan
from gateway.codec.refusal import RefuseReason
from tests.codec.messages import ADT, ORU, header

NOW = hl7_time(1_795_348_800_123_456)
MODES, OUTCOMES = list(AckMode), list(AckOutcome)

# MSH-15, MSH-16 -> answers when stored, refused, unable; "" is no answer. Source: HL7 v2.5.1 2.9.2, table 0155.
MSH_DETERMINED = """
    -  -   AA     AR  AE
    AL NE  CA     CR  CE
    AL -   CA     CR  CE
    AL AL  CA+AA  CR  CE
    AL ER  CA     CR  CE
    AL SU  CA+AA  CR  CE
    NE AL  AA     AR  AE
    NE ER  none   AR  AE
    NE SU  AA     none none
    NE NE  none   none none
    NE -   none   none none
    ER NE  none   CR  CE
    ER AL  AA     CR  CE
    ER ER  none   CR  CE
    ER SU  AA     CR  CE
    ER -   none   CR  CE
    SU NE  CA     none none
    SU AL  CA+AA  AR  AE
    SU ER  CA     AR  AE
    SU SU  CA+AA  none none
    SU -   CA     none none
    -  AL  AA     AR  AE
    -  ER  none   AR  AE
    -  SU  AA     none none
    -  NE  none   none none
    XX NE  CA     CR  CE
    XX -   CA     CR  CE
    -  XX  AA     AR  AE
    NE XX  AA     AR  AE
"""
ROWS = [line.split() for line in MSH_DETERMINED.strip().splitlines()]


def codes(cell: str) -> tuple[AckCode, ...]:
    return () if cell == "none" else tuple(AckCode(code) for code in cell.split("+"))


def condition(cell: str) -> bytes:
    return b"" if cell == "-" else cell.encode()


def head(body: bytes) -> Header:
    found = scan(body)
    return found.header if isinstance(found, HeaderFault) else found


@pytest.mark.parametrize(("accept", "application", "stored", "refused", "unable"), ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_msh_15_and_16_decide_the_answers(accept: str, application: str, stored: str, refused: str, unable: str) -> None:
    asked = condition(accept), condition(application)
    assert [answers(AckMode.MSH, outcome, *asked) for outcome in OUTCOMES] == [codes(stored), codes(refused), codes(unable)]


@pytest.mark.parametrize("asked", [(b"", b""), (b"NE", b"NE"), (b"AL", b"AL"), (b"XX", b"")])
def test_the_fixed_modes_answer_once_whatever_is_asked(asked: tuple[bytes, bytes]) -> None:
    assert [answers(AckMode.ORIGINAL, outcome, *asked) for outcome in OUTCOMES] == [(AckCode.AA,), (AckCode.AR,), (AckCode.AE,)]
    assert [answers(AckMode.ENHANCED, outcome, *asked) for outcome in OUTCOMES] == [(AckCode.CA,), (AckCode.CR,), (AckCode.CE,)]


@pytest.mark.parametrize("mode", MODES)
def test_an_acknowledgement_is_acknowledged_only_where_it_insists(mode: AckMode) -> None:
    assert answers(mode, AckOutcome.STORED, b"", b"AL", acknowledgement=True) == ()
    assert answers(mode, AckOutcome.STORED, b"AL", b"AL", acknowledgement=True) == (AckCode.CA,)
    assert answers(mode, AckOutcome.UNABLE, b"AL", b"", acknowledgement=True) == (AckCode.CE,)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_a_stored_message_gets_yes_and_no_other_ever_does(mode: AckMode, row: list[str]) -> None:
    asked = condition(row[0]), condition(row[1])
    assert {code[1] for code in answers(mode, AckOutcome.STORED, *asked)} <= {"A"}
    assert {code[1] for code in answers(mode, AckOutcome.REFUSED, *asked)} <= {"R"}
    assert {code[1] for code in answers(mode, AckOutcome.UNABLE, *asked)} <= {"E"}


# ---------------------------------------------------------------- the bytes


def test_time_has_milliseconds_and_an_offset() -> None:
    assert NOW == b"20261122120000.123+0000"


def test_an_answer_swaps_the_addresses_and_ends_every_segment_with_cr() -> None:
    builder = AckBuilder(AckMode.MSH, "gw7-")
    expected = b"MSH|^~\\&|EDGE|SITE|HIS|WARD|%b||ACK^A01^ACK|gw7-%d|P|2.5.1\rMSA|AA|M0001\r"
    assert builder.accept(head(ADT), NOW) == [expected % (NOW, 1)]
    assert builder.replies(head(ADT), AckOutcome.STORED, NOW) == [expected % (NOW, 2)]


def test_accept_and_then_application_answer_come_in_that_order_under_their_own_ids() -> None:
    answer = AckBuilder(AckMode.MSH, "gw7-").accept(head(header(msh15="AL", msh16="AL")), NOW)
    assert [parse_reply(text) for text in answer] == [Reply(AckCode.CA, b"M0001"), Reply(AckCode.AA, b"M0001")]
    assert [head(text).control_id for text in answer] == [b"gw7-1", b"gw7-2"]


def test_nothing_is_sent_where_nothing_is_asked() -> None:
    assert AckBuilder(AckMode.MSH, "gw7-").accept(head(header(msh15="NE", msh16="NE")), NOW) == []


def test_unknown_conditions_are_answered_as_always() -> None:
    answer = AckBuilder(AckMode.MSH, "gw7-").accept(head(header(msh15="YES")), NOW)
    assert [parse_reply(text) for text in answer] == [Reply(AckCode.CA, b"M0001")]


def test_the_delimiters_and_the_character_set_of_the_sender_are_used() -> None:
    body = b"MSH!*~\\&!A*x!B!C!D!1!!ORU*R01!ID*1 !P!2.3!!!!!!8859/1\r"
    text = AckBuilder(AckMode.ORIGINAL, "g").accept(head(body), NOW)
    assert text == [b"MSH!*~\\&!C!D!A*x!B!" + NOW + b"!!ACK*R01*ACK!g1!P!2.3!!!!!!8859/1\rMSA!AA!ID*1 \r"]


@pytest.mark.parametrize("declared", ["ADT", "ADT^^ADT_A01", "ACK"])
def test_a_message_without_a_trigger_is_answered_by_a_bare_ack(declared: str) -> None:
    text = AckBuilder(AckMode.ORIGINAL, "g").accept(head(header(msh9=declared)), NOW)[0]
    assert head(text).fields[8] == b"ACK"


def test_a_long_message_type_is_not_remembered_but_answered() -> None:
    text = AckBuilder(AckMode.ORIGINAL, "g").accept(head(header(msh9="ADT^" + "Z" * 100)), NOW)[0]
    assert head(text).trigger == b"Z" * 100


def test_a_refusal_names_place_code_and_reason_in_the_form_of_the_version() -> None:
    def err(version: str, reason: RefuseReason) -> bytes:
        answer = AckBuilder(AckMode.ORIGINAL, "g").replies(head(header(msh12=version)), AckOutcome.REFUSED, NOW, reason=reason)
        return answer[0].split(b"\r", 1)[1]

    new = (
        b"MSA|AR|M0001|MSH 9 message type is missing\rERR||MSH^1^9|101^Required field missing^HL70357|E||||MSH 9 message type is missing\r"
    )
    old = b"MSA|AR|M0001|MSH 9 message type is missing\rERR|MSH^1^9^101\r"
    assert {err(version, RefuseReason.NO_MESSAGE_TYPE) for version in ("2.5", "2.5.1", "2.8", "2.10", "", "junk", "2.6^DEU")} == {new}
    assert {err(version, RefuseReason.NO_MESSAGE_TYPE) for version in ("2.1", "2.3.1", "2.4")} == {old}
    assert err("2.4", RefuseReason.NO_HEADER).endswith(b"ERR|MSH^1^^100\r")
    assert err("2.4", RefuseReason.TOO_LARGE).endswith(b"ERR|^^^104\r")
    assert b"\rERR|||104^" in err("2.5", RefuseReason.TOO_LARGE)


def test_storage_trouble_is_an_error_to_be_sent_again_and_never_a_reject() -> None:
    for mode, code in ((AckMode.ORIGINAL, AckCode.AE), (AckMode.ENHANCED, AckCode.CE)):
        answer = AckBuilder(mode, "g").replies(head(ADT), AckOutcome.UNABLE, NOW, reason=RefuseReason.UNABLE)
        assert [parse_reply(text) for text in answer] == [Reply(code, b"M0001", ("207",), RefuseReason.UNABLE.text)]


@pytest.mark.parametrize("reason", RefuseReason, ids=lambda reason: reason.label)
@pytest.mark.parametrize("version", ["2.3", "2.5.1"])
def test_every_refusal_can_be_read_back(reason: RefuseReason, version: str) -> None:
    for found in (head(header(msh12=version)), UNKNOWN_HEADER, head(b"MSH|\r"), head(b"MSH!!^\r"), head(b"MSH#^#\r")):
        answer = AckBuilder(AckMode.ORIGINAL, "g").replies(found, AckOutcome.REFUSED, NOW, reason=reason)
        reply = parse_reply(answer[0])
        assert reply == Reply(AckCode.AR, found.control_id, (str(reason.error_code),), reason.text)


def test_the_texts_of_refusals_need_no_escaping_and_their_labels_are_unique() -> None:
    assert all((reason.text + reason.error_text).replace(b" ", b"").isalnum() for reason in RefuseReason)
    assert len({reason.label for reason in RefuseReason}) == len(RefuseReason)


CANARY = b"CANARY"


@pytest.mark.parametrize("reason", RefuseReason, ids=lambda reason: reason.label)
def test_a_refusal_quotes_nothing_behind_the_header(reason: RefuseReason) -> None:
    for body in (ADT + CANARY, CANARY + ADT, b"MSH|^^\\&|A|B\rPID|" + CANARY, b"MSH|" + CANARY):
        answer = AckBuilder(AckMode.ORIGINAL, "g").replies(head(body), AckOutcome.REFUSED, NOW, reason=reason)
        assert CANARY not in b"".join(answer)


def test_another_reader_understands_the_answers() -> None:
    for body in (ADT, ORU):
        accepted = hl7.parse(AckBuilder(AckMode.ORIGINAL, "g").accept(head(body), NOW)[0].decode())
        refused = AckBuilder(AckMode.ORIGINAL, "g").replies(head(body), AckOutcome.REFUSED, NOW, reason=RefuseReason.NO_CONTROL_ID)
        assert str(accepted.segment("MSA")[1]) == "AA"
        assert str(hl7.parse(refused[0].decode()).segment("MSA")[1]) == "AR"
        assert "101" in str(hl7.parse(refused[0].decode()).segment("ERR"))


ids = st.binary(min_size=1, max_size=30).filter(lambda text: not set(text) & set(b"|\r\n"))


@given(ids, st.sampled_from(OUTCOMES), st.sampled_from(MODES))
def test_msa_2_is_the_control_id_byte_for_byte(control_id: bytes, outcome: AckOutcome, mode: AckMode) -> None:
    found = head(b"MSH|^~\\&|A|B|C|D|1||ADT^A01|" + control_id + b"|P|2.5\r")
    reason = None if outcome is AckOutcome.STORED else RefuseReason.UNABLE
    for text in AckBuilder(mode, "g").replies(found, outcome, NOW, reason=reason):
        reply = parse_reply(text)
        assert reply is not None
        assert reply.control_id == control_id


# ---------------------------------------------------------------- the answers of destinations

REPLIES = [
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.3\rMSA|AA|M1\r", Reply(AckCode.AA, b"M1")),
    (b"MSH|^~\\&|B|||A|1||ORR^O02|9|P|2.3\rMSA|AE|M1|busy\rPID|1\r", Reply(AckCode.AE, b"M1", (), b"busy")),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.3\nMSA|AA|M1", Reply(AckCode.AA, b"M1")),
    (b"\xef\xbb\xbfMSH|^~\\&|B|||A|1||ACK|9|P|2.3\r\nMSA|CR|M1\r\n", Reply(AckCode.CR, b"M1")),
    (b"MSH!*~\\&!B!!!A!1!!ACK!9!P!2.5\rMSA!AR!M*1\rERR!!PID*1*5!207*x!E\r", Reply(AckCode.AR, b"M*1", ("207",))),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.3\rMSA|AR|M1\rERR|PID^1^5^101&t~PV1^1^2^206\r", Reply(AckCode.AR, b"M1", ("101", "206"))),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.5\rMSA|AR|M1\rERR|||100\rERR|||207\r", Reply(AckCode.AR, b"M1", ("100", "207"))),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.5\rMSA|AR|M1\rERR|||DOE\rERR|||12345\rERR\r", Reply(AckCode.AR, b"M1")),
    (b"MSH|^~\\&|B\rMSA|AA\r", Reply(AckCode.AA, b"")),
    (b"MSH|^~\\&|B|||A|1|||9|P|2.3\rMSA|AA|M1\rMSA|AR|M2\r", Reply(AckCode.AA, b"M1")),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.3\rMSA|XX|M1\r", None),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.3\rMSA\r", None),
    (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.3\r", None),
    (b"MSA|AA|M1\r", None),
    (b"<html>MSA|AA|M1</html>", None),
    (b"\x06", None),
    (b"", None),
]


@pytest.mark.parametrize(("body", "reply"), REPLIES, ids=range(len(REPLIES)))
def test_an_answer_is_its_first_msa_in_whatever_message(body: bytes, reply: Reply | None) -> None:
    assert parse_reply(body) == reply


parts = st.sampled_from([b"MSH|^~\\&|", b"MSH", b"MSA|", b"AA", b"|", b"\r", b"\n", b"ERR|", b"^", b"~", b"101", b"&", b"\xef\xbb\xbf"])


@given(st.lists(parts | st.binary(max_size=3), max_size=25).map(b"".join))
def test_any_bytes_are_a_reply_or_none(body: bytes) -> None:
    reply = parse_reply(body)
    if reply is not None:
        assert all(error.isdecimal() and len(error) <= 4 for error in reply.errors)
        assert reply.control_id in body
