"""The https sink before a destination that misbehaves in every way of the contract."""

from __future__ import annotations

import base64
import gzip
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trustme
import zstandard

from gateway.model.message import Delivery
from gateway.model.receipt import Answered, BatchRejected, BatchTooLarge, Blocked, Failed, Later, RouteState, VerdictKind
from gateway.sink.https import MEANINGS, Meaning, build, meaning_of, retry_after_s
from gateway.sink.https_settings import HttpsSettings
from gateway.sink.services import SinkServices
from gateway.transport.tls import server_context
from tests.route.fakes import LoopClock, stored
from tests.transport.http_peer import CLOSE, HANG, HttpPeer, Request, answer, peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.model.receipt import Outcome
    from gateway.sink.https import HttpsSink

GATEWAY = "ward-3"
BATCH = tuple(Delivery(stored(seq), seq) for seq in range(1, 4))
IDS = [f"{GATEWAY}/{stored(1).incarnation}/{seq}" for seq in (1, 2, 3)]


@asynccontextmanager
async def sending(script: Callable[[Request], bytes] | bytes, **settings: Any) -> AsyncIterator[tuple[HttpsSink, HttpPeer]]:
    async with peer(script) as there:
        sink = sink_for(there.url, **settings)
        try:
            yield sink, there
        finally:
            await sink.close()


def sink_for(url: str, **settings: Any) -> HttpsSink:
    table = {"name": "cloud", "type": "https", "url": url, "connect_timeout_s": 1, "answer_timeout_s": 2} | settings
    return build(HttpsSettings.model_validate(table), SinkServices(GATEWAY, "everything", LoopClock()))


async def outcome(script: Callable[[Request], bytes] | bytes, **settings: Any) -> Outcome:
    async with sending(script, **settings) as (sink, _):
        return await sink.send(BATCH)


def receipt(*statuses: str, ids: list[str] | None = None) -> bytes:
    results = [{"id": event_id, "status": status} for event_id, status in zip(ids or IDS, statuses, strict=False)]
    return answer(200, orjson.dumps({"results": results}))


def kinds(found: Outcome) -> list[VerdictKind]:
    assert isinstance(found, Answered)
    return [verdict.kind for verdict in found.verdicts]


# --- the request ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compression", "unpack"),
    [("gzip", gzip.decompress), ("zstd", lambda body: zstandard.ZstdDecompressor().decompress(body)), ("none", bytes)],
)
async def test_the_request_is_as_the_contract_says(compression: str, unpack: Callable[[bytes], bytes]) -> None:
    async with sending(answer(202), compression=compression) as (sink, there):
        await sink.send(BATCH)
    request = there.requests[0]
    digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    assert request.line == "POST /v1/events HTTP/1.1"
    assert request.headers["content-type"] == "application/cloudevents-batch+json"
    assert request.headers.get("content-encoding", "none") == compression
    assert request.headers["content-digest"] == f"sha-256=:{digest}:"
    assert "authorization" not in request.headers
    events = orjson.loads(unpack(request.body))
    assert [event["id"] for event in events] == IDS
    assert [event["data"].encode() for event in events] == [d.message.body for d in BATCH]
    assert {event["lane"] for event in events} == {"everything/adt"}


async def test_the_same_batch_is_the_same_request_with_the_same_key_and_another_is_not() -> None:
    async with sending(answer(500)) as (sink, there):
        await sink.send(BATCH)
        await sink.send(BATCH)
        await sink.send(BATCH[:2])
        await sink.send((Delivery(BATCH[0].message, 1, revision=1), *BATCH[1:]))
    async with sending(answer(500)) as (sink, restarted):
        await sink.send(BATCH)
    requests = [*there.requests, *restarted.requests]
    keys = [request.headers["idempotency-key"] for request in requests]
    assert keys[0] == keys[1] == keys[4]
    assert requests[0].body == requests[1].body == requests[4].body
    assert len(set(keys)) == 3
    assert keys[0].startswith('"')
    assert keys[0].endswith('"')


async def test_a_batch_prepared_ahead_is_sent_as_it_is_and_another_one_is_not_taken_for_it() -> None:
    async with sending(answer(202), compression="none") as (sink, there):
        sink.prepare(BATCH[:1])
        sink.prepare(BATCH)
        await sink.send(BATCH)
        sink.prepare(BATCH)
        await sink.send(BATCH[1:])
    assert [len(orjson.loads(request.body)) for request in there.requests] == [3, 2]


async def test_large_batches_are_whole() -> None:
    batch = [Delivery(stored(seq, body=b"MSH|^~\\&|\r" + b"x" * 5000), seq) for seq in range(1, 301)]
    async with sending(answer(202)) as (sink, there):
        assert isinstance(await sink.send(batch), Answered)
    assert len(orjson.loads(gzip.decompress(there.requests[0].body))) == 300


# --- the answer -------------------------------------------------------------------------------------------------------


async def test_a_receipt_settles_exactly_what_it_names() -> None:
    assert kinds(await outcome(receipt("accepted", "duplicate", "rejected"))) == [
        VerdictKind.ACCEPTED,
        VerdictKind.DUPLICATE,
        VerdictKind.REJECTED,
    ]
    assert kinds(await outcome(receipt("retry"))) == [VerdictKind.RETRY, VerdictKind.DOUBT, VerdictKind.DOUBT]
    assert kinds(await outcome(receipt("accepted", ids=IDS[2:]))) == [VerdictKind.DOUBT, VerdictKind.DOUBT, VerdictKind.ACCEPTED]


async def test_the_proof_names_status_and_key_and_nothing_of_the_peer() -> None:
    async with sending(receipt("accepted")) as (sink, there):
        found = await sink.send(BATCH)
    assert isinstance(found, Answered)
    assert found.proof == f"http-200 {there.requests[0].headers['idempotency-key'].strip(chr(34))}"


@pytest.mark.parametrize("status", [202, 204])
async def test_plain_endpoints_accept_everything_with_an_empty_body(status: int) -> None:
    assert kinds(await outcome(answer(status))) == [VerdictKind.ACCEPTED] * 3


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        (answer(200), "receipt-not-json"),
        (answer(200, b"<html>Welcome to Hospital WiFi</html>"), "receipt-not-json"),
        (answer(200, b'{"results":[{"id":'), "receipt-not-json"),
        (answer(200, b"{}"), "receipt-no-results"),
        (answer(200, b"[]"), "receipt-no-results"),
        (answer(200, b"null"), "receipt-no-results"),
        (answer(200, b'{"results":{}}'), "receipt-no-results"),
        (answer(200, b'{"results":["x"]}'), "receipt-malformed"),
        (answer(200, orjson.dumps({"results": [{"id": IDS[0], "status": "ok"}]})), "receipt-malformed"),
        (answer(200, orjson.dumps({"results": [{"id": 1, "status": "accepted"}]})), "receipt-malformed"),
        (answer(200, orjson.dumps({"results": [{"id": IDS[0], "status": "accepted", "reason": 5}]})), "receipt-malformed"),
        (receipt("accepted", ids=[f"{GATEWAY}/x/1"]), "receipt-unknown-id"),
        (receipt("accepted", ids=[IDS[0].upper()]), "receipt-unknown-id"),
        (receipt("accepted", "rejected", ids=[IDS[0], IDS[0]]), "receipt-contradiction"),
        (answer(200, b'{"results":[' + b" " * 9_000_000 + b"]}"), "receipt-too-large"),
        (answer(202, b"<html>"), "receipt-unexpected"),
        (answer(202, b'{"results":[]}'), "receipt-unexpected"),
        (answer(201), "http-201"),
        (answer(206), "http-206"),
        (answer(299, b"<html>"), "http-299"),
    ],
)
async def test_a_2xx_that_is_no_receipt_settles_nothing(bytes_: bytes, code: str) -> None:
    assert await outcome(bytes_) == Blocked(RouteState.BAD_RECEIPT, code)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 404, 405, 406, 410, 411, 415, 421, 426, 431])
async def test_configuration_faults_block_and_are_never_followed(status: int) -> None:
    async with peer(answer(202)) as elsewhere:
        found = await outcome(answer(status, Location=elsewhere.url))
    assert found == Blocked(RouteState.MISCONFIGURED, f"http-{status}", 3.0)
    assert not elsewhere.requests


@pytest.mark.parametrize("status", [401, 403])
async def test_credential_faults_block(status: int) -> None:
    assert await outcome(answer(status)) == Blocked(RouteState.AUTH_BLOCKED, f"http-{status}", 3.0)


@pytest.mark.parametrize("status", [400, 422])
async def test_rejections_carry_the_text_of_the_destination_for_sealing_and_not_too_much_of_it(status: int) -> None:
    found = await outcome(answer(status, b"no patient DOE" + b"\xff" + b"x" * 100_000))
    assert isinstance(found, BatchRejected)
    assert found.code == f"http-{status}"
    assert found.reason.startswith("no patient DOE\ufffdx")
    assert len(found.reason) == 1000


async def test_413_is_too_large() -> None:
    assert await outcome(answer(413)) == BatchTooLarge("http-413")


async def test_413_before_the_whole_body_was_read_is_too_large_or_in_doubt() -> None:
    batch = [Delivery(stored(1, body=b"MSH|^~\\&|\r" + b"x" * 20_000_000), 1)]
    async with sending(answer(413, close=True), compression="none") as (sink, _):
        found = await sink.send(batch)
    assert isinstance(found, BatchTooLarge | Failed)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_in_seconds(status: int) -> None:
    assert await outcome(answer(status, Retry_After="17")) == Later(17.0, f"http-{status}")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("text", ["", "0", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_without_a_usable_retry_after_they_are_transient(status: int, text: str) -> None:
    assert await outcome(answer(status, Retry_After=text) if text else answer(status)) == Failed(f"http-{status}")


@pytest.mark.parametrize("status", [100 + 2, 402, 407, 408, 409, 412, 414, 418, 425, 428, 451, 499, 500, 501, 502, 504, 511, 599])
def test_everything_else_is_tried_again(status: int) -> None:
    assert meaning_of(status) is Meaning.FAILURE


def test_each_status_of_the_table_has_one_meaning() -> None:
    assert {meaning: sorted(s for s, m in MEANINGS.items() if m is meaning) for meaning in set(MEANINGS.values())} == {
        Meaning.RECEIPT: [200],
        Meaning.ALL_TAKEN: [202, 204],
        Meaning.REJECTED: [400, 422],
        Meaning.TOO_LARGE: [413],
        Meaning.CREDENTIALS: [401, 403],
        Meaning.CONFIGURATION: [404, 405, 406, 410, 411, 415, 421, 426, 431],
        Meaning.LATER: [429, 503],
    }


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({"retry-after": "120"}, 120.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "86400"}, 3600.0),
        ({"retry-after": "9" * 30}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:30:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 120.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:30:00 GMT", "date": "nonsense"}, 90.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:30:00 GMT"}, 90.0),
        ({"retry-after": "Wednesday, 21-Oct-26 07:30:00 GMT"}, 90.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:20:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 9999 07:30:00 GMT"}, 3600.0),
        ({"retry-after": "Wed, 99 Oct 2026 07:30:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], after_s: float | None) -> None:
    wall_us = 1_792_567_710_000_000  # Wed, 21 Oct 2026 07:28:30 GMT
    assert retry_after_s(headers, wall_us) == after_s


# --- no answer --------------------------------------------------------------------------------------------------------


async def test_nobody_there_is_a_failure_without_doubt() -> None:
    async with peer(answer(202)) as there:
        url = there.url
    sink = sink_for(url)
    assert await sink.send(BATCH) == Failed("connect-refused", in_doubt=False)
    await sink.close()


@pytest.mark.parametrize(("script", "code"), [(CLOSE, "connection-lost"), (b"SSH-2.0-x\r\nConnection: close\r\n\r\n", "http-protocol")])
async def test_an_answer_that_got_lost_leaves_the_batch_in_doubt(script: bytes, code: str) -> None:
    assert await outcome(script) == Failed(code, in_doubt=True)


async def test_half_open_is_found_by_the_deadline() -> None:
    assert await outcome(HANG, connect_timeout_s=0.1, answer_timeout_s=0.1) == Failed("answer-timeout", in_doubt=True)


async def test_500_leaves_the_batch_in_doubt() -> None:
    assert await outcome(answer(500)) == Failed("http-500", in_doubt=True)


# --- credentials and certificates -------------------------------------------------------------------------------------


async def test_the_token_is_read_again_when_it_changes_and_after_a_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with sending(lambda request: answer(401 if "first" in request.headers["authorization"] else 202), token={"file": token}) as (
        sink,
        there,
    ):
        assert await sink.send(BATCH) == Blocked(RouteState.AUTH_BLOCKED, "http-401")
        token.write_text("second\n")
        assert isinstance(await sink.send(BATCH), Answered)
    assert [request.headers["authorization"] for request in there.requests] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "token-unreadable"),
        (b"\xff\xfe", "token-unreadable"),
        (b"", "token-unusable"),
        (b"two words", "token-unusable"),
        (b"a\r\nX: b", "token-unusable"),
    ],
)
async def test_a_token_that_cannot_be_used_blocks_without_a_request(tmp_path: Path, content: bytes | None, code: str) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    async with sending(answer(202), token={"file": token}) as (sink, there):
        assert await sink.send(BATCH) == Blocked(RouteState.AUTH_BLOCKED, code)
        token.write_bytes(b"good")
        assert isinstance(await sink.send(BATCH), Answered)
    assert len(there.requests) == 1


async def test_a_token_from_a_systemd_credential(tmp_path: Path) -> None:
    (tmp_path / "cloud-token").write_text("from-systemd")
    async with peer(answer(202)) as there:
        table = {"name": "cloud", "type": "https", "url": there.url, "token": {"credential": "cloud-token"}}
        settings = HttpsSettings.model_validate(table)
        for folder, expected in ((tmp_path, "Answered"), (None, "Blocked")):
            sink = build(settings, SinkServices(GATEWAY, "everything", LoopClock(), credentials_directory=folder))
            assert type(await sink.send(BATCH)).__name__ == expected
            await sink.close()
    assert there.requests[0].headers["authorization"] == "Bearer from-systemd"


async def test_certificates_are_read_again_when_they_change_and_a_broken_new_one_is_not_used(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("localhost")
    cert = tmp_path / "server.pem"
    key = tmp_path / "server-key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    other.cert_pem.write_to_path(ca)
    async with peer(answer(202), server_context(cert, key)) as there:
        sink = sink_for(f"https://localhost:{there.port}/", ca_file=ca)
        assert await sink.send(BATCH) == Failed("tls-certificate")
        authority.cert_pem.write_to_path(ca)
        assert isinstance(await sink.send(BATCH), Answered)
        ca.write_text("half a fi")
        assert isinstance(await sink.send(BATCH), Answered)
        await sink.close()


async def test_certificates_that_cannot_be_used_are_a_configuration_fault(tmp_path: Path) -> None:
    sink = sink_for("https://localhost:9/", ca_file=tmp_path / "missing.pem")
    assert await sink.send(BATCH) == Blocked(RouteState.MISCONFIGURED, "tls-files")
    await sink.close()


async def test_mutual_tls_with_certificate_and_key_in_one_file_and_a_name_of_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    paths = {}
    for label, name in (("server", "localhost"), ("client", "ward-3.example")):
        issued = authority.issue_cert(name)
        paths[label] = tmp_path / f"{label}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(paths[label])
    async with peer(answer(202), server_context(paths["server"], paths["server"], ca)) as there:
        flat = sink_for(f"https://127.0.0.1:{there.port}/", ca_file=ca, client_cert={"file": paths["client"]}, server_name="localhost")
        assert isinstance(await flat.send(BATCH), Answered)
        await flat.close()
        files = {"ca": {"file": ca}, "cert": {"file": paths["client"]}, "key": {"file": paths["client"]}, "server_name": "localhost"}
        table = sink_for(f"https://127.0.0.1:{there.port}/", tls=files)
        assert isinstance(await table.send(BATCH), Answered)
        await table.close()
