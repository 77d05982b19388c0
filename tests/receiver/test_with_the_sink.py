"""The real sink against the real receiver: what one means the other understands."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from gateway.model.message import Delivery
from gateway.model.receipt import Answered, BatchRejected, BatchTooLarge, Blocked, Failed, RouteState, VerdictKind
from gateway.receiver.server import ReceiverSettings, ReferenceReceiver
from gateway.sink.https import build
from gateway.sink.https_settings import HttpsSettings
from gateway.sink.services import SinkServices
from gateway.transport import http_server
from tests.receiver.contract import request_flaws
from tests.receiver.events import AT_US, GATEWAY, SECOND, StillClock, body_of, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gateway.model.receipt import Outcome
    from gateway.sink.https import HttpsSink


@asynccontextmanager
async def pair(
    folder: Path, *, sink: dict[str, Any] | None = None, judge: Any = None, **receiver: Any
) -> AsyncIterator[tuple[HttpsSink, ReferenceReceiver]]:
    there = ReferenceReceiver(ReceiverSettings(folder / "store", **receiver), StillClock(), judge=judge)
    await there.start()
    settings = HttpsSettings.model_validate({"name": "cloud", "type": "https", "url": there.url} | (sink or {}))
    here = build(settings, SinkServices(GATEWAY, "everything", StillClock()))
    try:
        yield here, there
    finally:
        await here.close()
        await there.stop()


def deliveries(seqs: Sequence[int], **more: Any) -> list[Delivery]:
    return [Delivery(message(seq, **more), seq) for seq in seqs]


def verdicts(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, Answered)
    return [verdict.kind.value for verdict in outcome.verdicts]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_what_is_delivered_is_applied_and_what_is_sent_again_is_a_duplicate(tmp_path: Path, compression: str) -> None:
    async with pair(tmp_path, sink={"compression": compression}) as (here, there):
        assert verdicts(await here.send(deliveries([1, 2, 3]))) == ["accepted"] * 3
        assert verdicts(await here.send(deliveries([2, 3, 4]))) == ["duplicate", "duplicate", "accepted"]
        assert verdicts(await here.send(deliveries([5], incarnation=SECOND))) == ["accepted"]
        assert (there.applied, there.totals["missing"]) == (5, 0)


async def test_large_and_unprintable_messages_arrive_byte_for_byte(tmp_path: Path) -> None:
    bodies = [
        bytes(range(256)) * 16_384,
        b"\xef\xbb\xbf" + body_of(2),
        body_of(3).replace(b"\r", b"\n"),
        "Müller".encode("latin-1"),
        b"\xff",
    ]
    arrived: list[bytes] = []

    def judge(received: Any) -> str:
        arrived.append(received.data if isinstance(received.data, bytes) else received.data.encode(received.charset))
        return ""

    batch = [
        Delivery(message(seq, body=body, charset="iso-8859-1" if b"M\xfc" in body else "utf-8"), seq) for seq, body in enumerate(bodies, 1)
    ]
    async with pair(tmp_path, judge=judge) as (here, _):
        assert verdicts(await here.send(batch)) == ["accepted"] * len(bodies)
    assert arrived == bodies


async def test_a_rejection_names_its_event_and_its_reason(tmp_path: Path) -> None:
    async with pair(tmp_path, judge=lambda event: "not on a Sunday" if event.event_id.seq == 2 else "") as (here, _):
        outcome = await here.send(deliveries([1, 2, 3]))
    assert isinstance(outcome, Answered)
    assert [(verdict.kind, verdict.reason) for verdict in outcome.verdicts] == [
        (VerdictKind.ACCEPTED, ""),
        (VerdictKind.REJECTED, "not on a Sunday"),
        (VerdictKind.ACCEPTED, ""),
    ]


async def test_another_content_under_a_known_id_is_a_rejection(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, there):
        await here.send(deliveries([1]))
        assert verdicts(await here.send(deliveries([1], body=body_of(99)))) == ["rejected"]
        assert there.totals["conflicts"] == 1


async def test_refusals_of_the_whole_batch_mean_what_the_route_makes_of_them(tmp_path: Path) -> None:
    async with pair(tmp_path, content_max_bytes=5000) as (here, _):
        assert isinstance(await here.send(deliveries(range(1, 50))), BatchTooLarge)
        assert isinstance(await here.send([*deliveries([1]), *deliveries([2], incarnation=SECOND)]), BatchRejected)
    (tmp_path / "token").write_text("wrong")
    async with pair(tmp_path, token=b"right", sink={"token": {"file": str(tmp_path / "token")}}) as (here, _):
        outcome = await here.send(deliveries([1]))
        assert isinstance(outcome, Blocked)
        assert outcome.state is RouteState.AUTH_BLOCKED
        (tmp_path / "token").write_text("right")
        assert verdicts(await here.send(deliveries([1]))) == ["accepted"]


async def test_a_cut_cable_is_a_failure_and_then_everything_is_there_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as (here, there):
        await here.send(deliveries([1]))
        await there.pause()
        assert isinstance(await here.send(deliveries([1, 2])), Failed)
        await there.resume()
        assert verdicts(await here.send(deliveries([1, 2]))) == ["duplicate", "accepted"]


@pytest.mark.parametrize(
    ("compression", "undo"), [("gzip", gzip.decompress), ("zstd", zstandard.ZstdDecompressor().decompress), ("none", bytes)]
)
async def test_the_requests_of_the_sink_keep_to_the_document(compression: str, undo: Any) -> None:
    seen: list[http_server.Request] = []

    async def take(request: http_server.Request) -> http_server.Answer:
        seen.append(request)
        return http_server.Answer(204)

    server = http_server.HttpServer("127.0.0.1", 0, {("POST", "/v1/events"): take})
    await server.start()
    url = f"http://127.0.0.1:{server.address[1]}/v1/events"
    settings = HttpsSettings.model_validate({"name": "cloud", "type": "https", "url": url, "compression": compression})
    sink = build(settings, SinkServices(GATEWAY, "everything", StillClock(AT_US)))
    try:
        for batch in (deliveries([1]), deliveries([1]), deliveries(range(1, 200))):
            assert isinstance(await sink.send(batch), Answered)
    finally:
        await sink.close()
        await server.stop()
    assert [request_flaws(request.headers, undo(request.body)) for request in seen] == [[], [], []]
    assert (seen[0].headers["idempotency-key"], seen[0].body) == (seen[1].headers["idempotency-key"], seen[1].body)
