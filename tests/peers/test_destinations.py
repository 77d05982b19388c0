"""The ``mllp`` sink before servers that other people wrote, and before one that does everything wrong."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.gateway_process import Gateway, until
from tests.blackbox.gateway_setup import wind_down
from tests.blackbox.messages import control_id, framed, message, padded
from tests.blackbox.mllp_line import Line, Sender
from tests.peers.environments import hl7_server, medplum_server, need_peers
from tests.peers.misbehaving_server import CLOSE, MisbehavingServer, acknowledgement, good

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.blackbox.gateway_setup import NewGateway

    Script = Callable[[int, bytes], Iterable[bytes]]

COUNT = 12
QUICK = "answer_timeout_s = 0.5\nretry = { first_ms = 50, cap_ms = 200 }"


def sink_table(port: int, more: str = "") -> str:
    return f'[[sink]]\nname = "cloud"\ntype = "mllp"\naddress = "127.0.0.1:{port}"\n{more}'


def send(gateway: Gateway, count: int, name: str = "D") -> list[str]:
    """That many messages into the gateway; their control ids."""
    controls = [f"{name}-{number}" for number in range(count)]
    with Line(gateway.port) as line:
        for control in controls:
            line.send(framed(padded(control, 500)))
        assert sum(answer.positive for answer in line.answers(count, 10)) == count
    return controls


def test_python_hl7_takes_every_message_once_and_in_order(new_gateway: NewGateway) -> None:
    need_peers()
    with hl7_server() as peer:
        gateway = new_gateway(sink_table=sink_table(peer.port))
        gateway.start()
        controls = send(gateway, 60)
        arrived = [control_id(json.loads(peer.next_line()).encode()) for _ in controls]
        counts = gateway.settled()
    assert arrived == controls
    assert counts["delivered"] == counts["accepted"] == 60


def test_medplum_takes_every_message_once_and_in_order(new_gateway: NewGateway) -> None:
    need_peers()
    with medplum_server() as peer:
        gateway = new_gateway(sink_table=sink_table(peer.port))
        gateway.start()
        controls = send(gateway, 60)
        arrived = [json.loads(peer.next_line()) for _ in controls]
        counts = gateway.settled()
    assert arrived == controls
    assert counts["delivered"] == 60


def test_a_peer_that_is_started_late_gets_everything(new_gateway: NewGateway) -> None:
    need_peers()
    with hl7_server() as peer:
        port = peer.port
    gateway = new_gateway(sink_table=sink_table(port, QUICK))
    gateway.start()
    controls = send(gateway, 20)
    time.sleep(1)
    counts = gateway.route()
    assert counts["queued"] == 20
    assert counts["last_error"]
    with MisbehavingServer(lambda _attempt, body: good(body)) as server:
        other = new_gateway("other", sink_table=sink_table(server.port, QUICK))
        other.start()
        send(other, 5, "O")
        assert other.settled()["delivered"] == 5
    assert gateway.route()["queued"] == len(controls), "one destination's trouble is not another's"


# ---------------------------------------------------------------- one misbehaviour each, at the first attempt of message 3


def at_message_3(*answers: bytes) -> Script:
    """The first attempt of message 3 is answered with ``answers``; everything else well."""

    def script(attempt: int, body: bytes) -> Iterable[bytes]:
        return answers if control_id(body) == "D-3" and attempt == 1 else good(body)

    return script


REAL = acknowledgement("D-3")
TRIED_AGAIN = {
    "no answer": at_message_3(),
    "closed instead of an answer": at_message_3(CLOSE),
    "half an answer, then closed": at_message_3(framed(REAL)[:40], CLOSE),
    "another message's id": at_message_3(framed(acknowledgement("D-99"))),
    "no id": at_message_3(framed(acknowledgement(""))),
    "a web page": at_message_3(b"HTTP/1.1 400 Bad Request\r\n\r\n<html></html>"),
    "an answer without MSA": at_message_3(framed(b"MSH|^~\\&|X|Y|Z|Q|2026||ACK|1|P|2.5\r")),
    "AE": at_message_3(framed(acknowledgement("D-3", "AE"))),
    "CE": at_message_3(framed(acknowledgement("D-3", "CE"))),
    "AR for an internal error": at_message_3(framed(acknowledgement("D-3", "AR", error="207"))),
    "AR for a locked record": at_message_3(framed(acknowledgement("D-3", "AR", error="206"))),
}
TAKEN_AS_IT_IS = {
    "byte by byte": at_message_3(*(framed(REAL)[i : i + 1] for i in range(len(framed(REAL))))),
    "line feeds": at_message_3(framed(acknowledgement("D-3", end="\n"))),
    "no last carriage return": at_message_3(framed(REAL.rstrip(b"\r"))),
    "inside another message": at_message_3(framed(acknowledgement("D-3", kind="ORR^O02"))),
    "CA": at_message_3(framed(acknowledgement("D-3", "CA"))),
    "earlier answers first": at_message_3(*(framed(acknowledgement(f"D-{number}")) for number in (0, 1, 2, 3))),
    "twice": at_message_3(framed(REAL), framed(REAL)),
    "without the last byte of the frame": at_message_3(framed(REAL)[:-1]),
}


@pytest.mark.parametrize("what", [*TRIED_AGAIN, *TAKEN_AS_IT_IS])
def test_every_message_is_delivered_in_order_whatever_happens_to_one_answer(new_gateway: NewGateway, what: str) -> None:
    with MisbehavingServer({**TRIED_AGAIN, **TAKEN_AS_IT_IS}[what]) as server:
        gateway = new_gateway(sink_table=sink_table(server.port, QUICK.replace("0.5", "1.0")))
        gateway.start()
        controls = send(gateway, COUNT)
        counts = gateway.settled()
        attempts = [control_id(body) for body in server.received].count("D-3")
        bodies = {control_id(body): body for body in server.received}
    assert counts["delivered"] == counts["accepted"] == COUNT
    assert server.controls() == controls
    assert bodies["D-3"] == padded("D-3", 500), "the bytes that were received are the bytes that are sent"
    assert attempts == (2 if what in TRIED_AGAIN else 1)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_message(new_gateway: NewGateway) -> None:
    def script(attempt: int, body: bytes) -> Iterable[bytes]:
        if control_id(body) == "D-3" and attempt == 1:
            time.sleep(1.5)  # the sink has given up and connected anew by now
            return good(body)
        return [framed(acknowledgement("D-3")), *good(body)] if control_id(body) == "D-4" else good(body)

    with MisbehavingServer(script) as server:
        gateway = new_gateway(sink_table=sink_table(server.port, QUICK))
        gateway.start()
        controls = send(gateway, COUNT)
        counts = gateway.settled()
    assert counts["delivered"] == COUNT
    assert server.controls() == controls
    assert server.connections >= 2


@pytest.mark.parametrize("code", ["AR", "CR"])
def test_a_rejected_message_is_a_dead_letter_and_the_others_go_on(new_gateway: NewGateway, code: str) -> None:
    def script(_attempt: int, body: bytes) -> Iterable[bytes]:
        return [framed(acknowledgement("D-3", code, error="103"))] if control_id(body) == "D-3" else good(body)

    with MisbehavingServer(script) as server:
        gateway = new_gateway(sink_table=sink_table(server.port, QUICK))
        gateway.start()
        controls = send(gateway, COUNT)
        counts = gateway.settled()
    assert counts["dead_letter"] == 1
    assert counts["delivered"] == COUNT - 1
    assert set(server.controls()) == set(controls)


def test_a_server_that_rejects_everything_costs_nothing(new_gateway: NewGateway) -> None:
    refusing = [True]

    def script(_attempt: int, body: bytes) -> Iterable[bytes]:
        return [framed(acknowledgement(control_id(body), "AR"))] if refusing[0] else good(body)

    with MisbehavingServer(script) as server:
        gateway = new_gateway(sink_table=sink_table(server.port, QUICK))
        gateway.start()
        send(gateway, COUNT)
        assert until(lambda: gateway.route()["state"] == "rejecting", 15)
        assert gateway.route()["dead_letter"] == 0
        refusing[0] = False
        counts = gateway.settled(30)
    assert counts["delivered"] == COUNT
    assert counts["dead_letter"] == 0


def test_kill_9_before_the_sink_sends_again_the_same_bytes_under_the_same_id(new_gateway: NewGateway) -> None:
    with MisbehavingServer(lambda _attempt, body: good(body)) as server:
        gateway = new_gateway(sink_table=sink_table(server.port, QUICK))
        gateway.start()
        sender = Sender(gateway.port, "D", rate=200, window=8, make=message).start()
        for _ in range(3):
            time.sleep(0.7)
            gateway.kill()
            gateway.start()
        wind_down([sender])
        assert until(lambda: set(sender.acked) <= set(server.controls()), 20)
        gateway.settled()
    known = [control for control in server.controls() if control in sender.acked]
    assert known == sorted(known, key=lambda control: int(control.split("-")[1]))
    assert all(body == sender.sent[control_id(body)] for body in server.received)
