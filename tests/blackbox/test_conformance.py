"""The MLLP conformance table against the running program: every case in one send, what was taken arrives byte for byte.

Source: HL7 Transport Specification MLLP, HL7 v2.5.1 chapter 2 (acknowledgement), and what senders in hospitals do.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.destination import Destination
from tests.blackbox.gateway_process import Gateway
from tests.blackbox.messages import framed, message
from tests.blackbox.mllp_line import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

VT, FS, CR = b"\x0b", b"\x1c", b"\r"


@dataclass(frozen=True, slots=True)
class Case:
    """``data`` in one send; ``answers``: (MSA-1, MSA-2, error code) in order; ``arrive``: bodies that must be delivered."""

    name: str
    data: bytes
    answers: tuple[tuple[str, str, str], ...]
    arrive: tuple[bytes, ...] = ()


def yes(control: str, code: str = "AA") -> tuple[str, str, str]:
    return code, control, ""


def two(name: str) -> tuple[bytes, bytes]:
    return message(f"{name}-1"), message(f"{name}-2")


def around(name: str, between: bytes, *refusals: tuple[str, str, str]) -> Case:
    """Good neighbours of something bad are served, on the same connection."""
    a, b = two(name)
    return Case(name, framed(a) + between + framed(b), (yes(f"{name}-1"), *refusals, yes(f"{name}-2")), (a, b))


def taken(name: str, body: bytes, code: str = "AA") -> Case:
    return Case(name, framed(body), (yes(name, code),), (body,))


def asked(name: str, accept: str, application: str, *codes: str) -> Case:
    body = message(name, accept=accept, application=application)
    return Case(name, framed(body), tuple(yes(name, code) for code in codes), (body,))


def batch(name: str, *, head: bytes = b"FHS|^~\\&|A|B\rBHS|^~\\&|A|B\r", tail: bytes = b"BTS|3\rFTS|1\r") -> Case:
    parts = tuple(message(f"{name}-{number}") for number in range(3))
    return Case(name, framed(head + b"".join(parts) + tail), tuple(yes(f"{name}-{number}") for number in range(3)), parts)


NO_CR = two("no-cr")
RESTARTED = message("restarted")
ONCE = message("duplicate")
REUSED = (message("reused"), message("reused", rest=b"PID|1||100008\r"))
RESTAMPED = message("restamped").replace(b"20261122120000", b"20261122130000")
CUSTOM = message("custom").replace(b"|", b"!").replace(b"^~\\&", b"@~\\%").replace(b"^", b"@")

CASES = [
    around("bad-between", VT + b"HELLO\r" + FS + CR, ("AR", "", "100")),
    around("empty-frame", VT + FS + CR, ("AR", "", "100")),
    around("line-feeds-between", b"\n\n"),
    around("nul-and-spaces-between", b"\0 \r\0 "),
    around("unframed-between", message("never-framed") + FS + CR),
    around("no-control-id", framed(message("")), ("AR", "", "101")),
    around("no-message-type", framed(message("no-type", kind="")), ("AR", "no-type", "101")),
    around("duplicate-delimiters", framed(message("dup-delims").replace(b"^~\\&", b"^^^^")), ("AR", "dup-delims", "102")),
    around("first-segment-is-not-a-header", framed(b"PID|1||100001\r"), ("AR", "", "100")),
    Case("no-cr-then-a-frame", framed(NO_CR[0])[:-1] + framed(NO_CR[1]), (yes("no-cr-1"), yes("no-cr-2")), NO_CR),
    Case("no-cr-then-silence", framed(message("no-cr"))[:-1], (yes("no-cr"),), (message("no-cr"),)),
    Case("restarted", VT + message("cut-off")[:60] + framed(RESTARTED), (yes("restarted"),), (RESTARTED,)),
    taken("lf", message("lf").replace(CR, b"\n")),
    taken("crlf", message("crlf").replace(CR, b"\r\n")),
    taken("no-last-cr", message("no-last-cr").rstrip(CR)),
    taken("bom", b"\xef\xbb\xbf" + message("bom")),
    taken("five-encoding-characters", message("five-encoding-characters").replace(b"^~\\&", b"^~\\&#")),
    taken("two-encoding-characters", message("two-encoding-characters").replace(b"^~\\&", b"^~\\")),
    Case("custom", framed(CUSTOM), (yes("custom"),), (CUSTOM,)),
    taken("latin-1", message("latin-1", charset="8859/1", rest=b"PID|1||100001||M\xfcller^TEST\r")),
    taken("utf-8", message("utf-8", charset="UNICODE UTF-8", rest="PID|1||100001||Žofie^TEST 😀\r".encode())),
    taken("undeclared-bytes", message("undeclared-bytes", rest=b"PID|1||100001||\xff\xfe\x80\r")),
    taken("unknown-charset", message("unknown-charset", charset="KLINGON", rest=b"PID|1||100001||\xe4\r")),
    taken("control-characters", message("control-characters", rest=b"NTE|1||\x00\x01\x1b\x7f\r")),
    taken("an-fs-inside", message("an-fs-inside", rest=b"NTE|1||left\x1cright\r")),
    taken("lower-case-segment", message("lower-case-segment", rest=b"pid|1||100001\r")),
    taken("old-version", message("old-version", version="2.1")),
    taken("strange-type", message("strange-type", kind="hello world^A01")),
    Case("duplicate", framed(ONCE) * 3, (yes("duplicate"),) * 3, (ONCE,)),
    Case("restamped", framed(message("restamped")) + framed(RESTAMPED), (yes("restamped"),) * 2, (message("restamped"),)),
    Case("reused", framed(REUSED[0]) + framed(REUSED[1]), (yes("reused"),) * 2, REUSED),
    asked("al-ne", "AL", "NE", "CA"),
    asked("al-al", "AL", "AL", "CA", "AA"),
    asked("ne-al", "NE", "AL", "AA"),
    asked("ne-ne", "NE", "NE"),
    asked("er-ne", "ER", "NE"),
    asked("su-ne", "SU", "NE", "CA"),
    asked("empty-al", "", "AL", "AA"),
    batch("batch"),
    batch("miscounted-batch", tail=b"BTS|7\rFTS|2\r"),
    batch("two-headers-without-a-batch", head=b"", tail=b""),
    Case("pipelined", b"".join(framed(message(f"piped-{n}")) for n in range(200)), tuple(yes(f"piped-{n}") for n in range(200)), ()),
]


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with Destination() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, destination: Destination) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("conformance") / "gw", destination.url, source="max_message_bytes = 4194304").init()
    made.start()
    yield made
    made.kill()


def bodies(destination: Destination) -> list[bytes]:
    return [applied.body for applied in destination.books.order]


def arrive_once(destination: Destination, wanted: tuple[bytes, ...]) -> None:
    end = time.monotonic() + 8
    while any(body not in bodies(destination) for body in wanted) and time.monotonic() < end:
        time.sleep(0.05)
    counts = [bodies(destination).count(body) for body in wanted]
    assert counts == [1] * len(wanted), f"arrived {counts} times"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_table(gateway: Gateway, destination: Destination, case: Case) -> None:
    with Line(gateway.port) as line:
        line.send(case.data)
        line.answers(len(case.answers), 5)
        line.quiet(0.4)
        got = tuple((answer.code, answer.control, "".join(answer.errors[:1])) for answer in line.got)
        assert [answer[:2] for answer in got] == [answer[:2] for answer in case.answers]
        assert [code for *_, code in got] == [code for *_, code in case.answers]
        assert not line.closed
        after = line.ask(message(f"{case.name}-after"))
        assert after is not None
        assert after.control == f"{case.name}-after", "the connection goes on"
    arrive_once(destination, case.arrive)


def test_a_refusal_never_quotes_what_was_refused(gateway: Gateway) -> None:
    word = "QQCANARYQQ"
    refused = [
        framed(f"{word}|x\r".encode()),
        framed(message("", rest=f"PID|1||{word}\r".encode())),
        framed(message(word, kind="")),
        framed(message("quoted", kind=f"{word}^{word}").replace(b"^~\\&", b"^^^^")),
    ]
    for data in refused:
        with Line(gateway.port) as line:
            line.send(data)
            (answer,) = line.answers(1)
            _, msa, err, *_ = answer.text.split(b"\r")  # MSH and MSA-2 give the sender its own header fields back
            assert answer.code == "AR"
            assert word.encode() not in err
            assert word.encode() not in b"|".join(msa.split(b"|")[3:])


def test_one_byte_at_a_time(gateway: Gateway, destination: Destination) -> None:
    body = message("bytewise")
    with Line(gateway.port) as line:
        for byte in framed(body):
            line.send(bytes([byte]))
        assert [answer.control for answer in line.answers(1)] == ["bytewise"]
    arrive_once(destination, (body,))


def test_a_document_of_two_megabytes(gateway: Gateway, destination: Destination) -> None:
    text = base64.b64encode(random.Random(5).randbytes(1_500_000))
    body = message("document", kind="MDM^T02", rest=b"OBX|1|ED|PDF^Report||^application^pdf^Base64^" + text + b"||||||F\r")
    with Line(gateway.port) as line:
        answer = line.ask(body, wait_s=15)
    assert answer is not None
    assert answer.positive
    arrive_once(destination, (body,))


def test_an_endless_frame_is_refused_in_bounded_memory_while_others_are_served(gateway: Gateway) -> None:
    base, ended, slowest = gateway.rss_mb(), threading.Event(), [0.0]

    def other() -> None:
        with Line(gateway.port) as line:
            number = 0
            while not ended.is_set():
                began = time.monotonic()
                answer = line.ask(message(f"meanwhile-{number}"))
                assert answer is not None
                assert answer.positive
                slowest[0] = max(slowest[0], time.monotonic() - began)
                number += 1

    neighbour = threading.Thread(target=other)
    neighbour.start()
    peak = base
    with Line(gateway.port) as line:
        line.send(VT + message("endless")[:-1])
        for _ in range(400):  # 25 MB
            line.send(b"A" * 65536)
            peak = max(peak, gateway.rss_mb())
        line.send(CR + FS + CR)
        (answer,) = line.answers(1, 10)
        after = line.ask(message("after-endless"))
    ended.set()
    neighbour.join(10)
    assert (answer.code, answer.control, answer.errors[:1]) == ("AR", "endless", ("104",))
    assert after is not None
    assert after.positive
    assert peak - base < 60
    assert slowest[0] < 2


def test_what_never_ends_is_cut_off(gateway: Gateway) -> None:
    with Line(gateway.port) as line:
        line.send(VT + message("for-ever")[:-1])
        sent = 0
        try:
            while not line.closed and sent < 120 << 20:
                line.send(b"A" * (1 << 20), timeout_s=5)
                sent += 1 << 20
                line.read(0.001)
        except OSError:
            line.closed = True
        line.quiet(1.0)
        assert line.closed
        assert not any(answer.positive for answer in line.got)


def test_a_refused_frame_is_kept_for_the_person_who_has_to_find_out_why(gateway: Gateway) -> None:
    with Line(gateway.port) as line:
        line.send(framed(message("kept-refused", kind="")))
        line.answers(1)
    end = time.monotonic() + 5
    while b"101" not in (listed := gateway.ask("refused", "ls", "--json").stdout) and time.monotonic() < end:
        time.sleep(0.2)
    assert listed
    assert gateway.status()["sources"][0]["refused"] > 0
