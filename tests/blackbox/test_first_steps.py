"""What a person does first: init, check, run, send one message, look; and what the commands say to nonsense."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.gateway_process import Gateway, balanced, until
from tests.blackbox.gateway_setup import snapshot_of
from tests.blackbox.messages import message
from tests.blackbox.mllp_line import Line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that the program itself has set up, on free ports."""
    gateway = Gateway(tmp_path / "mine", "")
    gateway.scratch.mkdir()
    done = gateway.call("init", str(gateway.home))
    assert done.returncode == 0, done.stderr.decode()
    yield gateway
    gateway.kill()


def on_free_ports(gateway: Gateway) -> None:
    """The template's ports may be taken on this machine."""
    from tests.blackbox.destination import free_port

    gateway.ports, gateway.admin = {"adt": free_port()}, free_port()
    text = gateway.config.read_text().replace(":2575", f":{gateway.port}").replace(":8686", f":{gateway.admin}")
    if f":{gateway.admin}" not in text:
        text += f'\n[admin]\nlisten = "127.0.0.1:{gateway.admin}"\n'
    gateway.config.write_text(text)


def test_init_writes_a_configuration_that_passes_check_and_keys_for_nobody_else(person: Gateway) -> None:
    assert person.ask("check").returncode == 0
    files = [path for path in person.home.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert not (person.home / "state").exists() or not list((person.home / "state").iterdir())


def test_init_never_overwrites(person: Gateway) -> None:
    before = snapshot_of(person.home)
    again = person.call("init", str(person.home))
    assert again.returncode != 0
    assert again.stderr
    assert snapshot_of(person.home) == before


def test_status_of_a_gateway_that_has_never_run_is_all_zeros(person: Gateway) -> None:
    status = person.status()
    assert status["state"] == "stopped"
    assert all(balanced(route) and route["accepted"] == 0 for route in status["routes"])
    assert status["routes"]
    assert status["sources"]


def test_the_first_message_arrives_in_the_file(person: Gateway) -> None:
    on_free_ports(person)
    person.start()
    with Line(person.port) as line:
        answer = line.ask(message("FIRST-1"))
    assert answer is not None
    assert answer.positive
    assert until(lambda: person.status()["routes"][0]["delivered"] == 1, 10)
    written = [path for path in person.home.rglob("*.ndjson*") if path.is_file()]
    events = [json.loads(row) for path in written for row in path.read_text().splitlines()]
    assert any("FIRST-1" in event.get("data", "") for event in events)
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert person.stop() == 0


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("status", "--frobnicate"), ("replay",), ("dead-letter", "replay"), ("init",), ("trace",)], ids=" ".join
)
def test_a_wrong_command_line_ends_with_2_and_says_what_is_wrong(person: Gateway, arguments: tuple[str, ...]) -> None:
    done = person.call(*arguments)
    assert done.returncode == 2
    assert len(done.stderr) > 10
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[gateway\n", b"gateway = 1\n", b"[gateway]\nid = 'UPPER CASE'\n", b"\0" * 4096])
def test_a_broken_file_is_named_with_its_fault_and_nothing_is_touched(person: Gateway, content: bytes) -> None:
    person.config.write_bytes(content)
    before = snapshot_of(person.home)
    for command, code in (("check", 1), ("status", 3), ("run", 3)):
        done = person.ask(command)
        assert done.returncode == code, (command, done.stderr)
        said = done.stdout + done.stderr
        assert said
        assert b"Traceback" not in said
    assert snapshot_of(person.home) == before


def test_the_daemons_commands_say_that_it_does_not_run(person: Gateway) -> None:
    done = person.ask("dead-letter", "replay", "ward/" + "0" * 32 + "/1", "--by", "tester")
    assert done.returncode in (1, 5)
    assert b"Traceback" not in done.stderr
