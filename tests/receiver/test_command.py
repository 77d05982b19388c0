"""``edge-gateway receive`` as a process: it says what happens, stops in order, and forgets nothing it has answered."""

from __future__ import annotations

import http.client
import io
import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from gateway.model.errors import ConfigurationError
from gateway.receiver.command import ReceiveOptions, receiver_settings
from gateway.receiver.lines import FACTS, Tally, json_voice, plain_voice, rich_voice
from gateway.receiver.server import BatchReport
from gateway.receiver.store import Applied
from tests.receiver.events import AT_US, SECOND, batch, changed, event, events, headers

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (
    "from gateway.receiver.command import receive_command as c; from gateway.service.system_clock import SystemClock; c(SystemClock())()"
)


class Process:
    """The running command and what it has said."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, "--listen", "127.0.0.1:0", "--json", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self.said: list[dict[str, Any]] = []

    def until(self, fact: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            if self.said[-1]["fact"] == fact:
                return self.said[-1]
        raise AssertionError(f"ended without {fact}: {self.said}")

    def post(self, body: bytes, **more: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(str(urlsplit(self.said[0]["url"]).netloc), timeout=10)
        connection.request("POST", "/v1/events", body, headers(body, **more))
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(10)


@contextmanager
def running(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        process.until("listening")
        yield process
    finally:
        process.process.kill()
        process.process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_and_ends_with_the_sums(tmp_path: Path, how: signal.Signals) -> None:
    with running("--store", str(tmp_path)) as receiver:
        assert receiver.post(events([1, 2, 4]))[0] == 200
        assert receiver.post(events([4]))[0] == 200
        assert receiver.stop(how) == 0
        final = receiver.until("stopped")
        assert receiver.process.communicate() == ("", "")
    assert {name: final[name] for name in ("applied", "duplicates", "missing")} == {"applied": 3, "duplicates": 1, "missing": 1}
    assert {"incarnation", "progress", "gap"} <= {said["fact"] for said in receiver.said}


def test_what_it_has_answered_survives_a_kill_and_nothing_else_is_invented(tmp_path: Path) -> None:
    answered = 0
    for _ in range(3):
        with running("--store", str(tmp_path)) as receiver:
            for _ in range(5):
                status, answer = receiver.post(events(range(answered + 1, answered + 21)))
                assert (status, {result["status"] for result in answer["results"]}) == (200, {"accepted"})
                answered += 20
            receiver.stop(signal.SIGKILL)
    with running("--store", str(tmp_path)) as receiver:
        _, answer = receiver.post(events(range(1, answered + 2)))
    assert [result["status"] for result in answer["results"]] == ["duplicate"] * answered + ["accepted"]


def test_it_ends_by_itself_after_its_time(tmp_path: Path) -> None:
    with running("--store", str(tmp_path), "--for", "0.2") as receiver:
        receiver.until("stopped")
        assert receiver.process.wait(10) == 0


def test_a_token_from_a_file_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with running("--store", str(tmp_path / "store"), "--token-file", str(tmp_path / "token")) as receiver:
        assert receiver.post(events([1]))[0] == 401
        assert receiver.post(events([1]), authorization="Bearer s3cret")[0] == 200


def test_nothing_that_a_peer_sends_is_said(tmp_path: Path) -> None:
    canary = "DOE^CANARY"
    with running("--store", str(tmp_path)) as receiver:
        for body in (
            canary.encode(),
            batch(changed(event(1), lane=canary)),
            batch(changed(event(2), id=canary)),
            batch(event(3, body=canary.encode())),
        ):
            assert canary not in str(receiver.post(body)[1])
        receiver.stop()
        receiver.until("stopped")
        assert receiver.process.stderr is not None
        assert receiver.process.stderr.read() == ""
    assert canary not in str(receiver.said)
    assert not [file for file in tmp_path.iterdir() if canary.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--listen", "nowhere"], 3, "--listen: not an address; write HOST:PORT"),
        (["--listen", "192.0.2.1:80"], 5, "address-not-here"),
        (["--listen", "127.0.0.1:0", "--cert", "x"], 3, "certificate and key only work together; give both"),
        (["--listen", "127.0.0.1:0", "--token-file", "/nonexistent"], 3, "--token-file: the file cannot be read"),
        (["--listen", "127.0.0.1:0", "--store", "/proc/none"], 1, "store-not-writable"),
        (["--for", "-1"], 2, "--for"),
        ([], 2, "--store"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_with_the_way_out(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    store = [] if "--store" in arguments or not arguments else ["--store", str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *store, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:0", ("::1", 0)), ("host:65535", ("host", 65535))],
)
def test_addresses_of_all_kinds_are_read(tmp_path: Path, listen: str, address: tuple[str, int]) -> None:
    settings = receiver_settings(ReceiveOptions(listen, tmp_path))
    assert (settings.host, settings.port) == address


@pytest.mark.parametrize("listen", ["", "80", ":80", "host:", "host:65536", "host:-1", "host:²"])
def test_what_is_no_address_is_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigurationError):
        receiver_settings(ReceiveOptions(listen, tmp_path))


@pytest.mark.parametrize("token", [b"", b"\n", b"two words", "tök".encode()])
def test_a_file_without_one_token_is_refused(tmp_path: Path, token: bytes) -> None:
    (tmp_path / "token").write_bytes(token)
    with pytest.raises(ConfigurationError):
        receiver_settings(ReceiveOptions("127.0.0.1:0", tmp_path, token_file=tmp_path / "token"))


REPORT = Applied(
    "ward-3",
    SECOND,
    first_of_incarnation=True,
    conflicts=2,
    opened=tuple(("everything/result", n, n + 1) for n in range(1, 60, 4)),
    closed=3,
    reused=1,
)
TOTALS = {"applied": 9, "duplicates": 1, "rejected": 0, "conflicts": 2, "missing": 30, "batches": 2, "faults": 1}


def test_a_second_is_told_as_facts_and_then_it_is_over() -> None:
    tally = Tally()
    tally.begin({})
    tally.note(BatchReport(REPORT, 10))
    for _ in range(1000):
        tally.note(BatchReport(Applied(), 10, "batch-not-json"))
    facts = tally.facts(TOTALS)
    assert [fact["fact"] for fact in facts] == [
        "progress",
        "incarnation",
        *["gap"] * 10,
        "gaps",
        "closed",
        "conflict",
        "reused",
        "refused",
        "fault",
    ]
    assert facts[-2] == {"fact": "refused", "code": "batch-not-json", "count": 1000}
    assert tally.facts(TOTALS) == []


def test_every_fact_reads_well_in_every_voice() -> None:
    tally = Tally()
    tally.note(BatchReport(REPORT, 10))
    tally.note(BatchReport(Applied(), 10, "batch-mixed"))
    facts = tally.facts(TOTALS)
    facts += [{"fact": "listening", "url": "u", "store": "[bold]s"}, {"fact": "warning", "text": "t"}, {"fact": "stopped", **TOTALS}]
    assert {fact["fact"] for fact in facts} == FACTS.keys()
    plain, coloured, as_json = io.StringIO(), io.StringIO(), io.StringIO()
    for fact in facts:
        for voice in (plain_voice(plain), rich_voice(coloured), json_voice(as_json)):
            voice(AT_US, fact)
    assert plain.getvalue() == coloured.getvalue()  # a StringIO is no terminal: the same words, no colours
    assert len(plain.getvalue().splitlines()) == len(as_json.getvalue().splitlines()) == len(facts)
    assert all(line.startswith("00:00:00 ") for line in plain.getvalue().splitlines())
    assert [json.loads(line)["time"] for line in as_json.getvalue().splitlines()] == ["2026-11-25T00:00:00.000000Z"] * len(facts)


def test_the_daemons_imports_do_not_grow_by_it() -> None:
    heavy = ("click", "rich", "pydantic", "jsonschema")
    program = f"import sys, gateway.receiver.server, gateway.receiver.command; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
