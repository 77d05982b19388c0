"""Every row of the reply table, played by a server, and what the sink makes of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gateway.model.message import GATEWAY_SOURCE, Delivery
from gateway.model.receipt import Answered, BatchRejected, Blocked, Failed, RouteState, Verdict, VerdictKind
from gateway.sink.mllp import MllpSink, build
from gateway.sink.mllp_replies import AMBIGUOUS, DEFAULTS, Action, ReplyEvent
from gateway.sink.mllp_settings import MllpSinkSettings
from gateway.sink.services import SinkServices
from gateway.transport.tls import server_context
from tests.route.fakes import LoopClock, stored
from tests.sink.mllp_peer import CLOSE, MllpPeer, Wait, ack, framed, mllp_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from gateway.model.receipt import Outcome
    from tests.sink.mllp_peer import Step

    Script = Callable[[int, bytes], Iterable[Step]]

RETRY = Answered((Verdict(VerdictKind.RETRY),))


def message(number: int) -> Delivery:
    return Delivery(stored(number), number)


def control_of(body: bytes) -> bytes:
    return body.split(b"|")[9]


def reply(code: str, more: bytes = b"") -> Script:
    """Answers every message so."""
    return lambda _number, body: [ack(code, control_of(body), more=more)]


def sink_for(port: int, **settings: Any) -> MllpSink:
    table = {"name": "his", "type": "mllp", "address": f"127.0.0.1:{port}", "connect_timeout_s": 1, "answer_timeout_s": 1} | settings
    return build(MllpSinkSettings.model_validate(table), SinkServices("ward-3", "everything", LoopClock()))


@asynccontextmanager
async def sending(script: Script, **settings: Any) -> AsyncIterator[tuple[MllpSink, MllpPeer]]:
    async with mllp_peer(script) as there:
        sink = sink_for(there.port, **settings)
        try:
            yield sink, there
        finally:
            await sink.close()


async def outcome(script: Script, **settings: Any) -> Outcome:
    async with sending(script, **settings) as (sink, _):
        return await sink.send([message(1)])


def is_done(found: Outcome) -> bool:
    return isinstance(found, Answered) and found.verdicts == (Verdict(VerdictKind.ACCEPTED),)


def is_retry(found: Outcome) -> bool:
    return isinstance(found, Answered) and found.verdicts == RETRY.verdicts


#: what the peer does -> the row of the table it must be taken for.
ROWS: dict[ReplyEvent, Script] = {
    ReplyEvent.AA: reply("AA"),
    ReplyEvent.CA: reply("CA"),
    ReplyEvent.AE: reply("AE"),
    ReplyEvent.CE: reply("CE"),
    ReplyEvent.AR: reply("AR"),
    ReplyEvent.CR: reply("CR"),
    ReplyEvent.TIMEOUT: lambda _n, _b: [Wait(1000)],
    ReplyEvent.CLOSED: lambda _n, _b: [CLOSE],
    ReplyEvent.MISMATCH: lambda _n, _b: [ack("AA", b"SOMEBODY-ELSE")],
    ReplyEvent.EMPTY_ID: lambda _n, _b: [ack("AA", b"")],
    ReplyEvent.GARBAGE: lambda _n, _b: [framed(b"<html>Login</html>")],
    ReplyEvent.COMMIT_ACK: lambda _n, _b: [framed(b"\x06")],
    ReplyEvent.COMMIT_NAK: lambda _n, _b: [framed(b"\x15")],
}


@pytest.mark.parametrize("event", list(ReplyEvent))
async def test_every_row_of_the_table(event: ReplyEvent) -> None:
    async with sending(ROWS[event], answer_timeout_s=0.2, mllp2=True) as (sink, there):
        found = await sink.send([message(1)])
        await sink.send([message(2)])
    code = f"mllp-{event.value.lower()}"
    match DEFAULTS[event]:
        case Action.DONE:
            assert is_done(found)
        case Action.DEAD:
            assert found == BatchRejected(code, "")
        case _ if event in AMBIGUOUS:
            assert found == Failed(code, in_doubt=True)
        case _:
            assert is_retry(found) or found == Failed(code)
    assert there.connections == (2 if event in AMBIGUOUS else 1), "closed exactly where a late reply could be taken for another"


@pytest.mark.parametrize("event", list(ReplyEvent))
async def test_every_row_can_be_overridden(event: ReplyEvent) -> None:
    settings: dict[str, Any] = {"answer_timeout_s": 0.2, "mllp2": True, "on_reply": {event.value: "suspend"}, "suspend_s": 7}
    assert await outcome(ROWS[event], **settings) == Blocked(RouteState.REJECTING, f"mllp-{event.value.lower()}-suspended", 7)
    settings["on_reply"] = {event.value: "dead"}
    found = await outcome(ROWS[event], **settings)
    assert isinstance(found, BatchRejected)


# --- the connection ---------------------------------------------------------------------------------------------------


async def test_the_stored_bytes_travel_over_one_connection() -> None:
    async with sending(reply("AA")) as (sink, there):
        for number in range(1, 6):
            assert is_done(await sink.send([message(number)]))
    assert there.messages == [message(number).message.body for number in range(1, 6)]
    assert there.connections == 1


async def test_a_destination_that_closes_after_each_reply_leaves_nothing_in_doubt() -> None:
    async with sending(lambda _n, body: [ack("AA", control_of(body)), CLOSE]) as (sink, there):
        for number in range(1, 6):
            found = await sink.send([message(number)])
            assert is_done(found) or found == Failed("mllp-closed", in_doubt=True)
            if not is_done(found):  # the close was still under way
                assert is_done(await sink.send([message(number)]))
    assert there.connections >= 5


async def test_a_connection_for_each_message_where_that_is_wanted() -> None:
    async with sending(reply("AA"), persistent=False) as (sink, there):
        for number in range(1, 4):
            await sink.send([message(number)])
    assert there.connections == 3


async def test_nobody_there_is_a_failure_without_doubt() -> None:
    async with mllp_peer(reply("AA")) as there:
        port = there.port
    sink = sink_for(port)
    assert await sink.send([message(1)]) == Failed("connect-refused", in_doubt=False)
    await sink.close()


async def test_at_least_so_long_between_two_messages() -> None:
    async with sending(reply("AA"), min_interval_ms=80) as (sink, there):
        for number in range(1, 4):
            await sink.send([message(number)])
    assert all(later - earlier >= 0.075 for earlier, later in zip(there.arrivals_s, there.arrivals_s[1:], strict=False))


async def test_tls_is_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, server = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(server)
    async with mllp_peer(reply("AA"), server_context(server, server)) as there:
        right = sink_for(there.port, tls={"ca": {"file": ca}, "server_name": "localhost"})
        assert is_done(await right.send([message(1)]))
        await right.close()
        wrong = sink_for(there.port, tls={"ca": {"file": ca}})
        assert await wrong.send([message(2)]) == Failed("tls-failed")
        await wrong.close()
        missing = sink_for(there.port, tls={"ca": {"file": tmp_path / "none.pem"}})
        assert await missing.send([message(3)]) == Blocked(RouteState.MISCONFIGURED, "tls-files")
        await missing.close()
    assert len(there.messages) == 1


# --- matching ---------------------------------------------------------------------------------------------------------


async def test_a_late_reply_is_never_taken_for_the_next_message() -> None:
    def late(number: int, body: bytes) -> list[Step]:
        return [Wait(0.3), ack("AA", control_of(body))] if number == 1 else [ack("AE", control_of(body))]

    async with sending(late, answer_timeout_s=0.1) as (sink, _):
        assert await sink.send([message(1)]) == Failed("mllp-timeout", in_doubt=True)
        assert is_retry(await sink.send([message(2)]))


async def test_replies_to_messages_that_were_answered_before_are_passed_over() -> None:
    def repeating(number: int, body: bytes) -> list[Step]:
        before = [ack("AA", b"C%d" % earlier) for earlier in range(1, number)]
        return [*before, ack("AR" if number == 3 else "AA", control_of(body))]

    async with sending(repeating) as (sink, _):
        assert is_done(await sink.send([message(1)]))
        assert is_done(await sink.send([message(2)]))
        assert isinstance(await sink.send([message(3)]), BatchRejected)
        assert sink.stale_replies >= 2


async def test_what_comes_unasked_between_two_messages_is_no_reply() -> None:
    def unasked(number: int, body: bytes) -> list[Step]:
        return [ack("AA", control_of(body)), Wait(0.02), ack("AA", b"C2")] if number == 1 else [ack("AR", control_of(body))]

    async with sending(unasked) as (sink, _):
        assert is_done(await sink.send([message(1)]))
        await asyncio.sleep(0.1)
        assert isinstance(await sink.send([message(2)]), BatchRejected)


@pytest.mark.parametrize(
    "wire",
    [
        b"\x0bMSH|^~\\&|A|B|C|D|20261122||ADR^A19|1|P|2.4\rMSA|AA|C1\rQRD|x\r\x1c\r",
        b"\x0bMSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\nMSA|AA|C1\x1c\r",
        b"\x0bMSH#*~\\&#A#B#C#D#20261122##ACK#1#P#2.4\rMSA#AA#C1#all well\x1c\r",
        b"\r\n\x0bMSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\rMSA|AA|C1\r\x1c\r",
        b"\x0bMSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\rMSA|AA|C1\r\x1c",  # FS without CR, then silence
    ],
)
async def test_replies_are_read_as_they_come(wire: bytes) -> None:
    assert is_done(await outcome(lambda _n, _b: [wire[:20], Wait(0.01), wire[20:], Wait(1000)], answer_timeout_s=2))


@pytest.mark.parametrize(
    "wire",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        framed(b""),
        framed(b"MSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\r"),
        framed(b"MSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\rMSA|YES|C1\r"),
        framed(b"\x06"),  # release 2, where it is not configured
        b"\x0bMSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\rMSA|AA|C1",  # cut off
        b"\x0b" + b"x" * 3_000_000,
    ],
)
async def test_garbage_is_never_taken_for_an_acceptance(wire: bytes) -> None:
    found = await outcome(lambda _n, _b: [wire, CLOSE])
    assert isinstance(found, Failed)
    assert found.code in {"mllp-garbage", "mllp-closed"}
    assert found.in_doubt


async def test_an_empty_msa_2_is_ours_where_the_site_says_so() -> None:
    assert is_done(await outcome(ROWS[ReplyEvent.EMPTY_ID], accept_empty_msa2=True))


async def test_a_message_without_control_id_is_matched_by_an_empty_msa_2() -> None:
    body = b"MSH|^~\\&|MON|ICU|GW|HOSP|20261122||ADT^A01||P|2.5.1\rPID|1\r"
    async with sending(ROWS[ReplyEvent.EMPTY_ID]) as (sink, _):
        assert is_done(await sink.send([Delivery(stored(1, body=body), 1)]))


# --- actions ----------------------------------------------------------------------------------------------------------


async def test_ca_and_then_the_application_acknowledgement_where_it_is_awaited() -> None:
    def both(_number: int, body: bytes) -> list[Step]:
        return [ack("CA", control_of(body)), Wait(0.05), ack("CA", control_of(body)), ack("AR", control_of(body))]

    assert is_done(await outcome(both))
    assert isinstance(await outcome(both, await_application_ack=True), BatchRejected)
    only_ca = await outcome(reply("CA"), await_application_ack=True, application_timeout_s=0.1)
    assert only_ca == Failed("mllp-timeout", in_doubt=True)


@pytest.mark.parametrize(
    "more",
    [b"ERR||PID^1|207^Application internal error^HL70357|E\r", b"ERR|^^^206\r", b"ERR|PID^1^5^101~PID^1^3^207\r"],
)
async def test_a_rejection_for_the_moment_is_tried_again(more: bytes) -> None:
    assert is_retry(await outcome(reply("AR", more)))
    assert isinstance(await outcome(reply("AR", more), retry_errors=[]), BatchRejected)


async def test_a_rejection_with_a_text_of_the_site_is_tried_again_and_others_carry_theirs() -> None:
    def texts(_number: int, body: bytes) -> list[Step]:
        return [framed(b"MSH|^~\\&|A|B|C|D|20261122||ACK|1|P|2.4\rMSA|AR|" + control_of(body) + b"|Patient LOCKED by DOE\r")]

    assert is_retry(await outcome(texts, retry_texts=["locked by"]))
    assert await outcome(texts) == BatchRejected("mllp-ar", "Patient LOCKED by DOE")


async def test_so_many_errors_for_one_message_suspend_the_destination() -> None:
    async with sending(reply("AE"), suspend_after=3, suspend_s=60) as (sink, _):
        found = [await sink.send([message(1)]) for _ in range(4)]
    assert [is_retry(one) for one in found] == [True, True, False, False]
    assert found[2] == Blocked(RouteState.REJECTING, "mllp-ae-suspended", 60)


async def test_only_hl7_messages_are_accepted() -> None:
    sink = sink_for(1)
    assert sink.accepts(message(1))
    assert not sink.accepts(Delivery(stored(2, GATEWAY_SOURCE, kind="gateway.gap"), 2))
    assert not sink.accepts(Delivery(stored(3, kind="device.observation"), 3))
    assert sink.max_messages == 1
