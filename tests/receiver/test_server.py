"""The receiver over HTTP: it answers what the document says, only after the commit, and it can be cut off at any moment."""

from __future__ import annotations

import asyncio
import gzip
import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
import trustme

from gateway.model.errors import ConfigurationError, LocalProtocolError, UnavailableError
from gateway.receiver.server import BatchReport, ReceiverSettings, ReferenceReceiver
from tests.receiver.contract import answer_flaws, request_flaws
from tests.receiver.events import CODERS, SECOND, StillClock, batch, body_of, changed, event, events, gap, headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CANARY = "DOE^CANARY"


class Cloud:
    """A running receiver and a client; every answer is held against the document."""

    def __init__(self, receiver: ReferenceReceiver, session: aiohttp.ClientSession) -> None:
        self.receiver, self.session = receiver, session

    async def ask(self, method: str, path: str, body: bytes = b"", sent: dict[str, str] | None = None) -> tuple[int, dict[str, str], Any]:
        url = self.receiver.url.removesuffix("/v1/events") + path
        async with self.session.request(method, url, data=body or None, headers=sent, allow_redirects=False) as answer:
            content = await answer.read()
            got = {name.lower(): value for name, value in answer.headers.items()}
            assert answer_flaws(method, path, answer.status, got, content) == []
            return answer.status, got, orjson.loads(content)

    async def deliver(self, plain: bytes, coding: str = "", **more: str) -> tuple[int, Any]:
        body = CODERS[coding](plain)
        sent = headers(body, coding, **more)
        assert request_flaws(sent, plain) == []
        status, _, answer = await self.ask("POST", "/v1/events", body, sent)
        return status, answer

    async def statuses(self, plain: bytes) -> list[str]:
        status, answer = await self.deliver(plain)
        assert status == 200
        return [result["status"] for result in answer["results"]]

    async def state(self) -> Any:
        return (await self.ask("GET", "/v1/state"))[2]


@asynccontextmanager
async def cloud(
    store: Path,
    *,
    trust: ssl.SSLContext | None = None,
    clock: StillClock | None = None,
    judge: Any = None,
    on_batch: Any = None,
    **settings: Any,
) -> AsyncIterator[Cloud]:
    receiver = ReferenceReceiver(ReceiverSettings(store, **settings), clock or StillClock(), judge=judge, on_batch=on_batch)
    await receiver.start()
    connector = aiohttp.TCPConnector(ssl=trust) if trust else aiohttp.TCPConnector()
    try:
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            yield Cloud(receiver, session)
    finally:
        await receiver.stop()


@pytest.mark.parametrize("coding", CODERS)
async def test_a_batch_is_applied_and_each_event_gets_its_verdict(tmp_path: Path, coding: str) -> None:
    async with cloud(tmp_path) as there:
        status, answer = await there.deliver(events([1, 2]), coding)
        assert (status, [result["id"].rpartition("/")[2] for result in answer["results"]]) == (200, ["1", "2"])
        assert await there.statuses(events([2, 3])) == ["duplicate", "accepted"]
        assert there.receiver.applied == 3


async def test_an_empty_batch_has_no_verdicts(tmp_path: Path) -> None:
    async with cloud(tmp_path) as there:
        assert await there.deliver(b"[]") == (200, {"results": []})


async def test_the_state_tells_lanes_gaps_and_incarnations(tmp_path: Path) -> None:
    async with cloud(tmp_path) as there:
        assert (await there.state())["lanes"] == []
        await there.statuses(batch(event(1), event(5), gap(6, 1, 2, 2)))
        bad = batch(event(7, 6, incarnation=SECOND), changed(event(1, incarnation=SECOND), time="never"))
        assert (await there.ask("POST", "/v1/events", bad, headers(bad)))[2]["results"][1]["status"] == "rejected"
        state = await there.state()
    result = next(lane for lane in state["lanes"] if lane["lane"] == "everything/result")
    assert (result["high"], result["missing"], result["missing_ranges"], result["declared"]) == (6, 2, [[3, 4]], 1)
    assert len(state["gateways"][0]["incarnations"]) == 2
    assert (state["events"], state["rejected"]) == (4, 1)


async def test_the_document_is_served_to_whom_it_concerns(tmp_path: Path) -> None:
    async with cloud(tmp_path) as there:
        assert (await there.ask("GET", "/v1/openapi.json"))[2]["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    ("body", "sent", "status", "code"),
    [
        (b"[]", {"content-digest": ""}, 400, "content-digest-missing"),
        (b"[]", {"content-digest": "sha-256=:AAAA:"}, 400, "content-digest-mismatch"),
        (b"[]", {"idempotency-key": ""}, 400, "idempotency-key-missing"),
        (b"[]", {"content-encoding": "gzip"}, 400, "content-coding-broken"),
        (b"[]", {"content-encoding": "br"}, 415, "content-coding-unsupported"),
        (b"[]", {"content-type": "text/html"}, 415, "content-type-unsupported"),
        (b"<html>" + CANARY.encode(), {}, 400, "batch-not-json"),
        (b"", {}, 400, "batch-not-json"),
        (b'{"a":1}', {}, 400, "batch-not-array"),
        (b'[{"id":"' + CANARY.encode() + b'"}]', {}, 422, "event-unnamed"),
        (gzip.compress(bytes(3000)), {"content-encoding": "gzip"}, 413, "content-too-large"),
        (b" " * 2001, {}, 413, "body-too-large"),
    ],
)
async def test_a_request_that_cannot_be_taken_is_a_typed_problem_and_applies_nothing(
    tmp_path: Path, body: bytes, sent: dict[str, str], status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reports: list[BatchReport] = []
    async with cloud(tmp_path, body_max_bytes=2000, content_max_bytes=2500, on_batch=reports.append) as there:
        got, answer_headers, answer = await there.ask("POST", "/v1/events", body, headers(body) | sent)
        assert (got, answer["code"]) == (status, code)
        assert CANARY not in str(answer)
        assert (status != 415) or "gzip" in answer_headers["accept-encoding"]
        assert there.receiver.totals["batches"] == 0
    assert CANARY not in caplog.text
    assert [report.refused for report in reports] == ([code] if code != "body-too-large" else [])


async def test_a_token_is_asked_for_everywhere_and_before_the_body(tmp_path: Path) -> None:
    async with cloud(tmp_path, token=b"right") as there:
        for method, path in (("POST", "/v1/events"), ("GET", "/v1/state"), ("GET", "/v1/openapi.json")):
            for sent, code in (({}, "token-missing"), ({"authorization": "Bearer wrong"}, "token-wrong")):
                status, got, answer = await there.ask(method, path, b"", sent)
                assert (status, answer["code"]) == (401, code)
                assert got["www-authenticate"].startswith("Bearer")
        assert (await there.deliver(events([1]), authorization="Bearer right"))[0] == 200


async def test_it_serves_tls_from_files(tmp_path: Path) -> None:
    authority = trustme.CA()
    identity = authority.issue_cert("127.0.0.1")
    identity.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    identity.private_key_pem.write_to_path(tmp_path / "key.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with cloud(tmp_path / "store", trust=trust, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem") as there:
        assert there.receiver.url.startswith("https://")
        assert await there.statuses(events([1])) == ["accepted"]


async def test_tls_files_that_cannot_be_used_are_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    settings = ReceiverSettings(tmp_path / "store", cert=tmp_path / "cert.pem", key=tmp_path / "none.pem")
    with pytest.raises(ConfigurationError):
        await ReferenceReceiver(settings, StillClock()).start()


async def test_a_pause_cuts_connections_and_a_resume_takes_the_same_port(tmp_path: Path) -> None:
    async with cloud(tmp_path) as there:
        await there.statuses(events([1]))
        await there.receiver.pause()
        with pytest.raises(aiohttp.ClientConnectionError):
            await there.deliver(events([2]))
        url = there.receiver.url
        await there.receiver.pause()
        await there.receiver.resume()
        await there.receiver.resume()
        assert there.receiver.url == url
        assert await there.statuses(events([1, 2])) == ["duplicate", "accepted"]


async def test_what_was_applied_when_the_answer_got_lost_is_a_duplicate_afterwards(tmp_path: Path) -> None:
    reports: list[BatchReport] = []
    reported = asyncio.Event()
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def judge(_event: Any) -> str:
        loop.call_soon_threadsafe(entered.set)
        return ""

    def on_batch(report: BatchReport) -> None:
        reports.append(report)
        reported.set()

    async with cloud(tmp_path, judge=judge, on_batch=on_batch) as there:
        lost = asyncio.create_task(there.deliver(events(range(1, 400))))
        await entered.wait()
        await there.receiver.pause()
        with pytest.raises(aiohttp.ClientConnectionError):
            await lost
        await reported.wait()
        assert reports[0].applied.accepted == 399
        await there.receiver.resume()
        assert set(await there.statuses(events(range(1, 400)))) == {"duplicate"}


async def test_two_senders_at_once_are_both_served(tmp_path: Path) -> None:
    async with cloud(tmp_path) as there:
        batches = [
            batch(*(event(n, gateway=name) for n in range(k * 50 + 1, k * 50 + 51))) for name in ("ward-3", "ward-4") for k in range(3)
        ]
        answers = await asyncio.gather(*(there.statuses(each) for each in batches))
        assert {status for answer in answers for status in answer} == {"accepted"}
        assert there.receiver.applied == 300
        assert there.receiver.totals["missing"] == 0


async def test_a_store_that_fails_is_a_503_with_a_time_and_it_mends_itself(tmp_path: Path) -> None:
    async with cloud(tmp_path) as there:
        await there.statuses(events([1]))
        there.receiver._store._connected().execute("PRAGMA max_page_count=1")
        body = events(range(2, 1500))
        status, got, answer = await there.ask("POST", "/v1/events", body, headers(body))
        assert (status, answer["code"], got["retry-after"]) == (503, "store-full", "5")
        assert await there.statuses(events([1, 2])) == ["duplicate", "accepted"]


async def test_an_address_or_a_store_in_use_is_said_at_once(tmp_path: Path) -> None:
    async with cloud(tmp_path / "one") as there:
        port = there.receiver.address[1]
        for settings, code in (
            (ReceiverSettings(tmp_path / "two", port=port), "address-in-use"),
            (ReceiverSettings(tmp_path / "one"), "store-in-use"),
        ):
            second = ReferenceReceiver(settings, StillClock())
            with pytest.raises(UnavailableError) as refused:
                await second.start()
            assert refused.value.code == code
        async with cloud(tmp_path / "two"):
            pass


async def test_before_its_start_it_has_no_address(tmp_path: Path) -> None:
    receiver = ReferenceReceiver(ReceiverSettings(tmp_path), StillClock())
    with pytest.raises(LocalProtocolError):
        assert receiver.url
    await receiver.stop()


async def test_payloads_lie_in_the_store_only_where_they_are_kept(tmp_path: Path) -> None:
    for keep in (False, True):
        folder = tmp_path / str(keep)
        async with cloud(folder, keep_payloads=keep) as there:
            await there.statuses(events([1]))
        found = [file.name for file in folder.iterdir() if body_of(1) in file.read_bytes()]
        assert found == (["receiver.db"] if keep else [])
