"""Senders that other people wrote, as processes of their own, against the listener."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.messages import message, padded
from tests.peers.environments import HERE, HL7, MEDPLUM, NODE, need_peers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_process import Gateway
    from tests.blackbox.gateway_setup import NewGateway


@pytest.fixture
def gateway(new_gateway: NewGateway) -> Gateway:
    need_peers()
    made = new_gateway()
    made.start()
    return made


def talk(command: list[str], bodies: list[bytes]) -> list[str]:
    """Feed the messages as JSON lines; the lines that the peer prints."""
    text = "".join(json.dumps(body.decode()) + "\n" for body in bodies)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60, cwd=MEDPLUM)
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout.splitlines()


def medplum(gateway: Gateway, bodies: list[bytes], window: int, wait_for: str = "first") -> list[dict[str, str]]:
    command = [str(NODE), str(HERE / "node/sender.mjs"), str(gateway.port), str(window), wait_for]
    return [json.loads(line) for line in talk(command, bodies)]


def arrived(destination: Destination, bodies: list[bytes]) -> None:
    """Each once, byte for byte, in order."""
    controls = [body.split(b"|")[9].decode() for body in bodies]
    assert not destination.wait_for(set(controls))
    assert [applied.body for applied in destination.books.order] == bodies


@pytest.mark.parametrize("window", [1, 50])
def test_medplum_lock_step_and_pipelined(gateway: Gateway, destination: Destination, window: int) -> None:
    bodies = [padded(f"MP-{number}", 700, number).rstrip(b"\r") for number in range(300)]
    answers = medplum(gateway, bodies, window)
    assert answers == [{"code": "AA", "control": f"MP-{number}"} for number in range(300)]
    arrived(destination, bodies)


@pytest.mark.parametrize(
    ("accept", "application", "wait_for", "code"),
    [("AL", "NE", "first", "CA"), ("AL", "AL", "first", "CA"), ("AL", "AL", "application", "AA"), ("NE", "AL", "application", "AA")],
)
def test_medplum_in_enhanced_mode(
    gateway: Gateway, destination: Destination, accept: str, application: str, wait_for: str, code: str
) -> None:
    bodies = [message(f"EN-{number}", accept=accept, application=application).rstrip(b"\r") for number in range(20)]
    answers = medplum(gateway, bodies, 1, wait_for)
    assert answers == [{"code": code, "control": f"EN-{number}"} for number in range(20)]
    arrived(destination, bodies)


def test_medplum_reads_a_refusal(gateway: Gateway, destination: Destination) -> None:
    (answer, after) = medplum(gateway, [message("BAD-1", kind="").rstrip(b"\r"), message("GOOD-1").rstrip(b"\r")], 1)
    assert answer == {"code": "AR", "control": "BAD-1"}
    assert after == {"code": "AA", "control": "GOOD-1"}
    assert not destination.wait_for({"GOOD-1"})
    assert "BAD-1" not in destination.controls()


def test_medplum_sends_two_bytes_per_letter(gateway: Gateway, destination: Destination) -> None:
    body = message("UTF-1", charset="UNICODE UTF-8", rest="PID|1||100001^^^SITE^MR||ŽOFIE^TEST 😀".encode())
    assert medplum(gateway, [body], 1) == [{"code": "AA", "control": "UTF-1"}]
    arrived(destination, [body])


def test_python_hl7_on_asyncio(gateway: Gateway, destination: Destination) -> None:
    bodies = [padded(f"PY-{number}", 700, number) for number in range(100)]
    answers = talk([str(HL7 / "python"), str(HERE / "hl7_sender.py"), str(gateway.port)], bodies)
    assert [json.loads(line) for line in answers] == [["AA", f"PY-{number}"] for number in range(100)]
    arrived(destination, bodies)


@pytest.mark.parametrize("loose", [False, True], ids=["framed", "loose"])
def test_mllp_send_from_a_file(gateway: Gateway, destination: Destination, tmp_path: Path, loose: bool) -> None:
    bodies = [message(f"CLI-{number}").rstrip(b"\r") for number in range(20)]
    file = tmp_path / "messages.hl7"
    file.write_bytes(b"\r\n".join(bodies) if loose else b"".join(b"\x0b" + body + b"\x1c\r" for body in bodies))
    command = [str(HL7 / "mllp_send"), "-p", str(gateway.port), "-f", str(file), *(["--loose"] if loose else []), "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"MSA|AA|CLI-") == 20
    arrived(destination, bodies)
