"""The five laws of every codec, over the registry: each capture whole, cut, flipped and shortened in every place.

1. Chunking is invisible. 2. Bytes give events, need of more, or the codec's one declared error; nothing else, for any bytes.
3. Buffers are bounded. 4. Where the format has a checksum, corruption never becomes a wrong value. 5. A codec never acknowledges.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gateway.codec
from gateway.model.errors import RemoteProtocolError
from tests.codec.registry import STREAM_CODECS, VALUE_CODECS, Stream, StreamCodec, ValueCodec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STREAM_CASES = [pytest.param(codec, wire, id=f"{codec.name}-{n}") for codec in STREAM_CODECS for n, wire in enumerate(codec.captures)]
VALUE_CASES = [pytest.param(codec, text, id=f"{codec.name}-{n}") for codec in VALUE_CODECS for n, text in enumerate(codec.captures)]
CHECKED_CASES = [pytest.param(codec, text, id=codec.name) for codec in VALUE_CODECS if codec.checksum for text in codec.captures]
SPLITS = 200
FLIPS = (0x01, 0x10, 0x80)


def damaged(capture: bytes) -> Iterator[bytes]:
    """Every byte with three single bits flipped, every truncation, and the text with its ends repeated."""
    for at in range(len(capture)):
        for flip in FLIPS:
            yield capture[:at] + bytes([capture[at] ^ flip]) + capture[at + 1 :]
        yield capture[:at]
    yield from (capture + capture, capture[len(capture) // 2 :], capture[::-1], b"")


def feed(stream: Stream, pieces: Iterable[bytes]) -> list[object]:
    """All events, with the error that ended the connection as the last one."""
    events: list[object] = []
    try:
        for piece in pieces:
            events += stream.receive(piece)
        events += stream.end()
    except RemoteProtocolError as error:
        events.append(error.code)
    return events


def single_bytes(wire: bytes) -> list[bytes]:
    return [wire[n : n + 1] for n in range(len(wire))]


@pytest.mark.parametrize(("codec", "wire"), STREAM_CASES)
def test_law_1_chunking_is_invisible(codec: StreamCodec, wire: bytes) -> None:
    whole = feed(codec.open(), [wire])
    assert feed(codec.open(), single_bytes(wire)) == whole
    seeded = random.Random(1)
    for _ in range(SPLITS):
        cuts = sorted(seeded.choices(range(len(wire) + 1), k=seeded.randint(1, 9)))
        pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
        assert feed(codec.open(), pieces) == whole, cuts


@pytest.mark.parametrize(("codec", "wire"), STREAM_CASES)
def test_law_1_holds_for_damaged_streams_too(codec: StreamCodec, wire: bytes) -> None:
    for n, bad in enumerate(damaged(wire)):
        if n % 7 == 0:
            assert feed(codec.open(), single_bytes(bad)) == feed(codec.open(), [bad])


@pytest.mark.parametrize(("codec", "wire"), STREAM_CASES)
def test_law_2_a_stream_gives_events_or_its_protocol_error_for_any_bytes(codec: StreamCodec, wire: bytes) -> None:
    for bad in damaged(wire):
        feed(codec.open(), [bad])  # another exception would leave here


@pytest.mark.parametrize(("codec", "text"), VALUE_CASES)
def test_law_2_a_value_decodes_or_fails_as_declared_for_any_bytes(codec: ValueCodec, text: bytes) -> None:
    codec.decode(text)
    for bad in damaged(text):
        try:
            codec.decode(bad)
        except codec.failures:
            continue


@pytest.mark.parametrize(("codec", "wire"), STREAM_CASES)
@pytest.mark.parametrize("chunk_bytes", [1, 16, 64])
def test_law_3_buffers_are_bounded(codec: StreamCodec, wire: bytes, chunk_bytes: int) -> None:
    for text in (wire, wire * 5, wire[:1] * 5000, wire[:20] * 300, wire.replace(wire[-2:], b"") * 5):
        stream = codec.open()
        for at in range(0, len(text), chunk_bytes):
            stream.receive(text[at : at + chunk_bytes])
            assert stream.buffered_bytes <= codec.limit_bytes + chunk_bytes


@pytest.mark.parametrize(("codec", "text"), CHECKED_CASES)
def test_law_4_corruption_never_becomes_a_wrong_value(codec: ValueCodec, text: bytes) -> None:
    for bad in damaged(text):
        with pytest.raises(codec.failures):
            codec.decode(bad)


@pytest.mark.parametrize(("codec", "wire"), STREAM_CASES)
def test_law_5_a_codec_reports_and_never_answers(codec: StreamCodec, wire: bytes) -> None:
    for text in (wire, wire[5:], wire[:-5]):
        assert all(isinstance(event, codec.events) for event in feed(codec.open(), [text]))
    assert not {"accept", "ack", "acknowledge", "reply", "send", "write"} & set(dir(codec.open()))


def test_every_codec_module_is_in_the_registry() -> None:
    modules = {path.stem.replace("_", " ") for path in Path(gateway.codec.__path__[0]).glob("*.py")} - {"  init  "}
    named = {codec.name for codec in (*STREAM_CODECS, *VALUE_CODECS)}
    renamed = {"charset": "character set", "cloudevents": "cloud events"}
    tables = {"refusal"}  # nothing to decode
    assert {renamed.get(module, module) for module in modules - tables} == named
