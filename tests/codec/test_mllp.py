"""MLLP framing: the conformance table as vectors, an independent framer as oracle, and the promises about memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.codec.mllp import Frame, FrameEvent, FrameFlag, FrameReason, Malformed, MllpReceiver, commit_block, frame
from tests.codec.messages import ADT, ORU

if TYPE_CHECKING:
    from collections.abc import Sequence

VT, FS, CR = b"\x0b", b"\x1c", b"\r"
PLAIN, NO_CR = FrameFlag.PLAIN, FrameFlag.ENDED_WITHOUT_CR
G, H = VT + ADT + FS + CR, VT + ORU + FS + CR
GOOD, NEXT = Frame(ADT, PLAIN), Frame(ORU, PLAIN)
EMPTY = Malformed(FrameReason.EMPTY, b"", 0, reply=True)


def unframed(run: bytes) -> Malformed:
    return Malformed(FrameReason.UNFRAMED, run, len(run), reply=False)


def truncated(run: bytes) -> Malformed:
    return Malformed(FrameReason.TRUNCATED, run, len(run), reply=False)


@dataclass(frozen=True)
class Vector:
    """``wire`` gives ``events`` (with ``end`` at the last byte); where ``both`` the frames give ``wire`` again."""

    promise: str
    wire: bytes
    events: Sequence[FrameEvent]
    both: bool = False


VECTORS = [
    Vector("nothing is nothing", b"", [], both=True),
    Vector("a frame is what stands between VT and FS CR", G, [GOOD], both=True),
    Vector("ten frames in one chunk are ten frames", G * 5 + H * 5, [GOOD] * 5 + [NEXT] * 5, both=True),
    Vector("content without HL7 in it is framed all the same", VT + b"HELLO\r" + FS + CR, [Frame(b"HELLO\r", PLAIN)], both=True),
    Vector("neighbours of a bad message live", G + VT + b"HELLO\r" + FS + CR + H, [GOOD, Frame(b"HELLO\r", PLAIN), NEXT], both=True),
    Vector("an empty frame wants an answer", G + VT + FS + CR + H, [GOOD, EMPTY, NEXT]),
    Vector("CR, LF, NUL and space between frames are skipped", b" \r" + G + b"\n\n\r\x00  " + H + b"\n", [GOOD, NEXT]),
    Vector("FS before VT ends the frame", G[:-1] + H, [Frame(ADT, NO_CR), NEXT]),
    Vector("FS before LF ends the frame", G[:-1] + b"\n" + H, [Frame(ADT, NO_CR), NEXT]),
    Vector("FS at the end of the line ends the frame", G[:-1], [Frame(ADT, NO_CR)]),
    Vector("a stray FS is data", VT + b"MSH|a" + FS + b"b" + FS + CR, [Frame(b"MSH|a" + FS + b"b", FrameFlag.FS_IN_DATA)], both=True),
    Vector("of two FS the second ends", VT + b"MSH|" + FS + FS + CR + G, [Frame(b"MSH|" + FS, FrameFlag.FS_IN_DATA), GOOD]),
    Vector("a stray VT is data", VT + b"MSH|a" + VT + b"b" + FS + CR + G, [Frame(b"MSH|a" + VT + b"b", FrameFlag.VT_IN_DATA), GOOD]),
    Vector("VT and a header start over", VT + b"MSH|cut" + G, [truncated(b"MSH|cut"), GOOD]),
    Vector(
        "VT, BOM and a header start over",
        VT + b"MSH|" + VT + b"\xef\xbb\xbfFHS|" + FS + CR,
        [truncated(b"MSH|"), Frame(b"\xef\xbb\xbfFHS|", PLAIN)],
    ),
    Vector("VT twice loses nothing", VT + G, [GOOD]),
    Vector("the end of the line cuts a frame", G + VT + b"MSH|cut", [GOOD, truncated(b"MSH|cut")]),
    Vector(
        "bytes without VT are reported, their neighbours live", G + b"MSH|x\r" + FS + CR + H, [GOOD, unframed(b"MSH|x\r" + FS + CR), NEXT]
    ),
    Vector("bytes without VT are reported at the end of the line", b"GET / HTTP/1.1\r\n\r\n", [unframed(b"GET / HTTP/1.1\r\n\r\n")]),
    Vector("FS outside is no frame", FS + CR + G, [unframed(FS + CR), GOOD]),
]


def run(wire: bytes, receiver: MllpReceiver | None = None) -> list[FrameEvent]:
    receiver = receiver or MllpReceiver()
    return receiver.receive(wire) + receiver.end()


def bytewise(wire: bytes, receiver: MllpReceiver) -> list[FrameEvent]:
    return [event for n in range(len(wire)) for event in receiver.receive(wire[n : n + 1])] + receiver.end()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.promise)
def test_bytes_give_the_events(vector: Vector) -> None:
    assert run(vector.wire) == vector.events


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.both], ids=lambda vector: vector.promise)
def test_frames_give_the_bytes(vector: Vector) -> None:
    assert b"".join(frame(event.body) for event in vector.events if isinstance(event, Frame)) == vector.wire


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.promise)
def test_single_bytes_give_the_same_events(vector: Vector) -> None:
    assert bytewise(vector.wire, MllpReceiver()) == vector.events


# ---------------------------------------------------------------- timers


def test_silence_after_fs_ends_the_frame_and_a_late_cr_is_skipped() -> None:
    receiver = MllpReceiver()
    assert receiver.receive(G[:-1]) == []
    waiting = [receiver.awaiting_idle]
    assert receiver.idle() == [Frame(ADT, NO_CR)]
    assert [*waiting, receiver.awaiting_idle] == [True, False]
    assert receiver.receive(CR + H) == [NEXT]
    assert receiver.skipped_bytes == 1


def test_silence_elsewhere_ends_nothing() -> None:
    receiver = MllpReceiver()
    assert receiver.idle() == []
    receiver.receive(VT + b"MSH|")
    assert receiver.idle() == []
    assert receiver.receive(b"x" + FS + CR) == [Frame(b"MSH|x", PLAIN)]


def test_silence_after_an_empty_frame_without_cr_reports_it() -> None:
    receiver = MllpReceiver()
    receiver.receive(VT + FS)
    assert receiver.idle() == [EMPTY]


def test_the_frame_timer_runs_from_vt_to_fs() -> None:
    receiver = MllpReceiver()
    opened = [receiver.open_frame]
    for chunk in (b"\r\n", VT, b"MSH|", FS, CR, b"junk"):
        receiver.receive(chunk)
        opened.append(receiver.open_frame)
    assert opened == [False, False, True, True, True, False, False]


def test_after_the_end_a_receiver_is_as_new() -> None:
    receiver = MllpReceiver()
    receiver.receive(b"junk" + G + VT + b"MSH|cut")
    receiver.end()
    assert receiver.end() == []
    assert receiver.buffered_bytes == 0
    assert receiver.receive(G) == [GOOD]


# ---------------------------------------------------------------- limits


def small() -> MllpReceiver:
    return MllpReceiver(max_message_bytes=64, discard_max_bytes=200, keep_bytes=16)


@pytest.mark.parametrize("size", [63, 64])
def test_a_frame_up_to_the_limit_is_taken(size: int) -> None:
    assert run(frame(b"x" * size), small()) == bytewise(frame(b"x" * size), small()) == [Frame(b"x" * size, PLAIN)]


@pytest.mark.parametrize("size", [65, 70, 71, 100, 200])
def test_a_larger_frame_is_refused_with_its_beginning_and_its_neighbours_live(size: int) -> None:
    body = b"MSH|0123456789AB" + b"x" * (size - 16)
    wire = frame(b"before") + frame(body) + frame(b"after")
    expected = [Frame(b"before", PLAIN), Malformed(FrameReason.OVERSIZE, body[:16], size, reply=True), Frame(b"after", PLAIN)]
    assert run(wire, small()) == expected
    assert bytewise(wire, small()) == expected


def test_an_oversize_frame_that_starts_over_gets_no_answer() -> None:
    wire = VT + b"x" * 100 + frame(b"MSH|")
    expected = [Malformed(FrameReason.TRUNCATED, b"x" * 16, 100, reply=False), Frame(b"MSH|", PLAIN)]
    assert run(wire, small()) == bytewise(wire, small()) == expected


def test_past_the_discard_cap_the_answer_comes_first_and_then_the_connection_closes() -> None:
    for feed in (run, bytewise):
        receiver = small()
        assert feed(VT + b"x" * 300 + FS + CR + G, receiver) == [Malformed(FrameReason.OVERSIZE, b"x" * 16, 200, reply=True)]
        assert receiver.must_close
        assert receiver.receive(G) == []


def test_endless_bytes_outside_a_frame_close_the_connection_too() -> None:
    for feed in (run, bytewise):
        receiver = small()
        assert feed(b"x" * 300 + G, receiver) == [Malformed(FrameReason.UNFRAMED, b"x" * 16, 200, reply=False)]
        assert receiver.must_close


def test_endless_skipped_bytes_are_no_reason_to_close() -> None:
    receiver = small()
    assert receiver.receive(b"\r\n" * 1000 + frame(b"MSH|")) == [Frame(b"MSH|", PLAIN)]
    assert receiver.skipped_bytes == 2000


def test_a_discard_cap_below_the_frame_limit_does_not_shrink_it() -> None:
    assert run(frame(b"x" * 64), MllpReceiver(max_message_bytes=64, discard_max_bytes=10)) == [Frame(b"x" * 64, PLAIN)]


def test_no_byte_of_an_open_frame_is_searched_twice() -> None:
    receiver = MllpReceiver()
    receiver.receive(VT + b"MSH|")
    for _ in range(100):
        receiver.receive(b"x" * 1000)
        assert receiver.buffered_bytes - receiver._scanned <= 6


# ---------------------------------------------------------------- an independent framer as oracle


def oracle(wire: bytes) -> list[FrameEvent]:
    """The rules of the module, by recursion over the rest of the stream, without chunks, limits or speed."""
    events: list[FrameEvent] = []
    while wire:
        run_, found, rest = wire.partition(VT)
        if run_ := run_.lstrip(b"\r\n\x00 "):
            events.append(unframed(run_))
        if not found:
            break
        event, wire = one_frame(rest)
        events += [] if event is None else [event]
    return events


def one_frame(rest: bytes) -> tuple[FrameEvent | None, bytes]:
    for at, byte in enumerate(rest):
        tail = rest[at + 1 :]
        if byte == VT[0] and tail.removeprefix(b"\xef\xbb\xbf").startswith((b"MSH", b"FHS", b"BHS")):
            return (truncated(rest[:at]) if at else None), rest[at:]
        if byte == FS[0] and tail[:1] in (CR, b"\n", VT, b""):
            body, flags = rest[:at], PLAIN if tail[:1] == CR else NO_CR
            flags |= FrameFlag.FS_IN_DATA if FS in body else PLAIN
            flags |= FrameFlag.VT_IN_DATA if VT in body else PLAIN
            return (Frame(body, flags) if body else EMPTY), tail[tail[:1] in (CR, b"\n") :]
    return (truncated(rest) if rest else None), b""


TOKENS = [
    VT,
    FS,
    CR,
    b"\n",
    b" ",
    b"\x00",
    b"MSH",
    b"BHS",
    b"FHS",
    b"MS",
    b"H",
    b"\xef\xbb\xbf",
    b"\xef",
    b"x",
    b"|abc",
    FS + CR,
    VT + b"MSH",
    G,
]
streams = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=40).map(b"".join)


@given(streams)
def test_any_bytes_give_what_the_rules_say(wire: bytes) -> None:
    assert run(wire) == oracle(wire)


@given(streams, st.data())
def test_chunking_is_invisible_within_any_limits(wire: bytes, data: st.DataObject) -> None:
    limits = [data.draw(st.integers(1, 60), label=label) for label in ("max", "discard", "keep")]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12), label="cuts"))
    whole, cut = MllpReceiver(*limits), MllpReceiver(*limits)
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    expected = run(wire, whole)
    assert [event for piece in pieces for event in cut.receive(piece)] + cut.end() == expected
    assert bytewise(wire, MllpReceiver(*limits)) == expected
    assert cut.skipped_bytes == whole.skipped_bytes


@given(streams, st.integers(1, 30), st.integers(0, 30))
@example(VT + b"x" * 90, 20, 10)
def test_memory_is_bounded_by_the_limits_and_one_chunk(wire: bytes, limit: int, keep: int) -> None:
    receiver = MllpReceiver(limit, 10 * limit, keep)
    for n in range(0, len(wire), 7):
        for event in receiver.receive(wire[n : n + 7]):
            assert len(event.body) <= limit if isinstance(event, Frame) else len(event.kept) <= keep
        assert receiver.buffered_bytes <= limit + keep + 7 + 6


@given(st.lists(st.binary(min_size=1).filter(lambda body: not set(body) & {0x0B, 0x1C}), max_size=8))
def test_what_is_framed_comes_back(bodies: list[bytes]) -> None:
    assert run(b"".join(map(frame, bodies))) == [Frame(body, PLAIN) for body in bodies]


@pytest.mark.parametrize(("body", "meaning"), [(b"\x06", True), (b"\x15", False), (b"\x06\x06", None), (ADT, None), (b"", None)])
def test_commit_blocks_of_release_2_are_told_from_messages(body: bytes, meaning: bool | None) -> None:
    assert commit_block(body) is meaning
