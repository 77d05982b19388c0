"""The header scan: what the ack path reads of a message, for tidy senders and for the others."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.message_header import Header, HeaderFault, charset_of, classify, first_segment, is_acknowledgement, patient_key, scan
from gateway.codec.refusal import RefuseReason
from gateway.model.traffic import TrafficClass
from tests.codec.messages import ADT, ORU, header


def good(body: bytes) -> Header:
    found = scan(body)
    assert isinstance(found, Header), found
    return found


def fault(body: bytes) -> HeaderFault:
    found = scan(body)
    assert isinstance(found, HeaderFault)
    return found


def test_every_field_stands_at_its_hl7_number() -> None:
    body = b"MSH|^~\\&|" + b"|".join(b"f%d" % n if n != 9 else b"ADT^A01^ADT_A01" for n in range(3, 22)) + b"\rPID|1\r"
    found = good(body)
    assert found.field_separator == b"|"
    assert found.fields[2:17] == [b"f3", b"f4", b"f5", b"f6", b"f7", b"f8", b"ADT^A01^ADT_A01", *(b"f%d" % n for n in range(10, 18))]
    assert (found.sending_app, found.sending_facility, found.control_id) == (b"f3", b"f4", b"f10")
    assert (found.message_type, found.trigger, found.structure) == (b"ADT", b"A01", b"ADT_A01")
    assert (found.processing_id, found.version, found.accept_ack, found.application_ack) == (b"f11", b"f12", b"f15", b"f16")
    assert found.charset_raw == b"f18"
    assert (found.encoding, found.component_separator, found.repetition_separator) == (b"^~\\&", b"^", b"~")
    assert body[found.start : found.end].startswith(b"MSH")
    assert body[found.end :] == b"\rPID|1\r"
    assert not found.is_batch


def test_a_short_header_has_empty_fields() -> None:
    found = good(b"MSH|^~\\&|A||||||ADT^A01|1")
    assert len(found.fields) == 18
    assert (found.version, found.accept_ack, found.application_ack, found.charset_raw) == (b"", b"", b"", b"")


VARIANTS = {
    "CR": ADT,
    "LF": ADT.replace(b"\r", b"\n"),
    "CRLF": ADT.replace(b"\r", b"\r\n"),
    "BOM": b"\xef\xbb\xbf" + ADT,
    "empty lines first": b"\r\n\r\n" + ADT,
    "no last CR": ADT.removesuffix(b"\r"),
    "fifth encoding character": ADT.replace(b"^~\\&", b"^~\\&#", 1),
    "other delimiters": ADT.translate(bytes.maketrans(b"|^~", b"!*#")),
    "tab as field separator": ADT.replace(b"|", b"\t"),
}


@pytest.mark.parametrize("body", VARIANTS.values(), ids=VARIANTS)
def test_odd_but_readable_messages_read_as_the_tidy_one(body: bytes) -> None:
    found, tidy = good(body), good(ADT)
    assert found.control_id == b"M0001"
    assert (found.message_type, found.trigger, found.structure) == (b"ADT", b"A01", b"ADT_A01")
    assert (found.sending_app, found.sending_facility, found.version) == (tidy.sending_app, tidy.sending_facility, tidy.version)
    assert body[slice(*found.restamp)] == b"20261122120000"
    assert patient_key(body, found) == patient_key(ADT, tidy) == b"100001\x1fHOSP"
    assert classify(found) == classify(tidy) == ("hl7.v2.ADT.A01", TrafficClass.ADT)


@pytest.mark.parametrize("encoding", [b"^", b"^~", b"^~\\", b""])
def test_fewer_encoding_characters_mean_unused_levels(encoding: bytes) -> None:
    body = b"MSH|" + encoding + b"|A|B|C|D|1||ADT^A01|1|P|2.5\rPID|1||7^^^H"
    found = good(body)
    assert found.control_id == b"1"
    assert found.message_type == (b"ADT" if encoding else b"ADT^A01")
    assert patient_key(body, found) == (b"7\x1fH" if encoding else b"7^^^H")


FAULTS = [
    (b"", RefuseReason.NO_HEADER),
    (b"HELLO\r", RefuseReason.NO_HEADER),
    (b"PID|1\rMSH|^~\\&|A\r", RefuseReason.NO_HEADER),
    (b"MSH", RefuseReason.NO_HEADER),
    (b"MSH|", RefuseReason.NO_HEADER),
    (b"MSH\r|^~\\&|A|B\r", RefuseReason.NO_HEADER),
    (b"MSHX^~\\&XA\r", RefuseReason.NO_HEADER),
    (b"MSH.^~\\&.A.B.C.D.1..ADT^A01.1\r", RefuseReason.NO_HEADER),
    (b" MSH|^~\\&|A|B|C|D|1||ADT^A01|1\r", RefuseReason.NO_HEADER),
    (b"MSH|^^\\&|A|B|C|D|1||ADT^A01|1|P|2.5\r", RefuseReason.AMBIGUOUS_DELIMITERS),
    (b"MSH^^~\\&^A^B\r", RefuseReason.NO_MESSAGE_TYPE),
    (b"MSH|^~\\&#$|A|B|C|D|1||ADT^A01|1|P|2.5\r", RefuseReason.AMBIGUOUS_DELIMITERS),
    (b"MSH|ADT^A01|1|P|2.5\r", RefuseReason.AMBIGUOUS_DELIMITERS),
    (b"MSH|^~\\&|A|B|C|D|1|||1|P|2.5\r", RefuseReason.NO_MESSAGE_TYPE),
    (b"MSH|^~\\&|A|B|C|D|1||^A01|1|P|2.5\r", RefuseReason.NO_MESSAGE_TYPE),
    (b"MSH|^~\\&|A|B|C|D|1||ADT^A01||P|2.5\r", RefuseReason.NO_CONTROL_ID),
    (b"MSH|^~\\&|A|B|C|D|1||ADT^A01\r", RefuseReason.NO_CONTROL_ID),
    (b"MSH|^~\\&\rPID|1\r", RefuseReason.NO_MESSAGE_TYPE),
]


@pytest.mark.parametrize(("body", "reason"), FAULTS, ids=range(len(FAULTS)))
def test_an_unusable_header_has_its_reason(body: bytes, reason: RefuseReason) -> None:
    assert fault(body).reason is reason


def test_a_fault_still_gives_what_the_answer_needs() -> None:
    found = fault(b"MSH!*~\\&!APP!FAC!C!D!1!!ADT*A01!!T!2.3\r").header
    assert (found.field_separator, found.encoding, found.sending_app, found.version) == (b"!", b"*~\\&", b"APP", b"2.3")
    ambiguous = fault(b"MSH|^^\\&|APP|FAC|C|D|1||ADT^A01|ID7|P|2.5\r").header
    assert (ambiguous.encoding, ambiguous.control_id) == (b"^~\\&", b"ID7")


@pytest.mark.parametrize("tag", [b"FHS", b"BHS"])
def test_a_batch_header_answers_as_an_msh(tag: bytes) -> None:
    found = good(tag + b"|^~\\&|APP|FAC|EDGE|SITE|20261122||NAME|COMMENT|B77|REF\r")
    assert found.is_batch
    assert (found.sending_app, found.sending_facility, found.control_id) == (b"APP", b"FAC", b"B77")
    assert (found.accept_ack, found.application_ack, found.message_type) == (b"", b"", b"")


# ---------------------------------------------------------------- patient


PATIENTS = [
    (b"PID|1||100001^^^HOSP^MR", b"100001\x1fHOSP"),
    (b"PID|1||100001", b"100001"),
    (b"PID|1||7~100001^^^HOSP", b"100001\x1fHOSP"),
    (b"PID|1||7^^^~8^^^", b"7"),
    (b'PID|1||""^^^HOSP~9', b"9"),
    (b"PID|1||^^^HOSP", b""),
    (b"PID|1||", b""),
    (b"PID|1|100001", b""),
    (b"PID", b""),
    (b"PV1|1||100001^^^HOSP", b""),
    (b"PIDX|1||100001^^^HOSP", b""),
    (b"EVN|A01\rPID|1||5^^^A\rPID|2||6^^^B", b"5\x1fA"),
    (b"PID|1\rPV1|2|100001^^^HOSP|x", b""),
]


@pytest.mark.parametrize(("rest", "key"), PATIENTS, ids=range(len(PATIENTS)))
@pytest.mark.parametrize("terminator", [b"\r", b"\n", b"\r\n"])
def test_the_ordering_key_is_the_first_identifier_with_an_assigner(rest: bytes, key: bytes, terminator: bytes) -> None:
    body = (header() + rest + b"\r").replace(b"\r", terminator)
    assert patient_key(body, good(body)) == key


def plainly(body: bytes) -> bytes:
    """The same rule, said slowly."""
    lines = body.replace(b"\n", b"\r").split(b"\r")[1:]
    pid = next((line.split(b"|") for line in lines if line.startswith(b"PID|")), [])
    identifiers = [value.split(b"^") for value in pid[3].split(b"~")] if len(pid) > 3 else []
    known = [parts for parts in identifiers if parts[0] not in (b"", b'""')]
    scoped = [parts for parts in known if len(parts) > 3 and parts[3]]
    return scoped[0][0] + b"\x1f" + scoped[0][3] if scoped else known[0][0] if known else b""


pid_pieces = st.sampled_from(
    [b"\r", b"\n", b"\rEVN|A01", b"\rPID|", b"\nPID|", b"|", b"|1|", b"^", b"^^^", b"~", b'""', b"7", b"8^^^H", b"PID", b"EVN"]
)


@given(st.lists(pid_pieces, max_size=14).map(b"".join))
def test_the_quick_way_to_the_ordering_key_gives_what_the_rule_says(rest: bytes) -> None:
    body = header() + b"PID|1||" + rest
    for message in (body, header() + rest, header() + b"EVN|A01\rPID|1||" + rest):
        assert patient_key(message, good(message)) == plainly(message)


def test_identifiers_past_the_limit_are_not_looked_at() -> None:
    body = header() + b"PID|1||" + b"~" * 100_000 + b"7^^^HOSP\r"
    assert patient_key(body, good(body)) == b""


# ---------------------------------------------------------------- type, character set, acknowledgement


@pytest.mark.parametrize(
    ("declared", "kind", "traffic"),
    [
        ("ORU^R01", "hl7.v2.ORU.R01", TrafficClass.RESULT),
        ("ACK", "hl7.v2.ACK", TrafficClass.OTHER),
        ("ORU^R40^ORU_R40", "hl7.v2.ORU.R40", TrafficClass.ALARM),
        ("adt^a01", "hl7.v2.other", TrafficClass.OTHER),
        ("ADT^DOE TEST", "hl7.v2.other", TrafficClass.ADT),
        ("ZZZ^Z01" + "^" * 100, "hl7.v2.ZZZ.Z01", TrafficClass.OTHER),
        ("A" * 100, "hl7.v2.other", TrafficClass.OTHER),
    ],
)
def test_type_and_class_come_from_a_closed_alphabet(declared: str, kind: str, traffic: TrafficClass) -> None:
    assert classify(good(header(msh9=declared))) == (kind, traffic)


@pytest.mark.parametrize(
    ("declared", "name"),
    [("", "utf-8"), ("8859/1", "iso-8859-1"), ("UNICODE UTF-8~8859/1", "utf-8"), ("8859/15~ISO IR87", "iso-8859-15"), ("KLINGON", "")],
)
def test_the_first_character_set_counts(declared: str, name: str) -> None:
    assert charset_of(good(header(msh18=declared))) == name


ACKNOWLEDGEMENTS = [
    (header(msh9="ACK"), True),
    (header(msh9="ACK^A01^ACK"), True),
    (header(msh9="MCF"), True),
    (header(msh9="ACKX"), False),
    (header() + b"MSA|AA|1\r", True),
    (header() + b"\r\nSFT|x\rUAC|y\r\nMSA|AA|1\r", True),
    (header() + b"MSAX|AA\r", False),
    (header() + b"PID|1\rMSA|AA|1\r", False),
    (header() + b"SFT|x", False),
    (ADT, False),
]


@pytest.mark.parametrize(("body", "expected"), ACKNOWLEDGEMENTS, ids=range(len(ACKNOWLEDGEMENTS)))
def test_an_acknowledgement_is_known_by_type_or_msa(body: bytes, expected: bool) -> None:
    assert is_acknowledgement(body, good(body)) is expected


# ---------------------------------------------------------------- any bytes

pieces = st.sampled_from(
    [b"MSH", b"|", b"^~\\&", b"|||", b"ADT^A01", b"\r", b"\n", b"PID|", b"~", b"^", b"FHS", b"x", b"\xef\xbb\xbf", ADT, ORU]
)
bodies = st.lists(pieces | st.binary(max_size=4), max_size=25).map(b"".join)


@given(bodies)
def test_any_bytes_are_a_header_or_a_fault(body: bytes) -> None:
    found = scan(body)
    head = found.header if isinstance(found, HeaderFault) else found
    assert len(head.fields) >= 18
    assert not b"".join(head.fields).strip(b"\r\n") or b"\r" not in b"".join(head.fields)
    assert patient_key(body, head).count(b"\x1f") <= 1 + body.count(b"\x1f")
    assert re.fullmatch(r"hl7\.v2\.(other|[A-Z0-9]{1,7}(\.[A-Z0-9]{1,7})?)", classify(head)[0])
    assert is_acknowledgement(body, head) in (True, False)
    assert isinstance(charset_of(head), str)


@given(bodies)
def test_a_good_header_lies_in_the_body_byte_for_byte(body: bytes) -> None:
    found = scan(body)
    if isinstance(found, Header) and not found.is_batch:
        declared = found.field_separator.join(found.fields)
        assert declared.startswith(body[found.start : found.end])
        assert not declared[found.end - found.start :].strip(found.field_separator)
        assert body[slice(*found.restamp)] == found.fields[6]
        assert first_segment(body) == found.start
