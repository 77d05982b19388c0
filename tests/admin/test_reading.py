"""Commands that read: from the daemon, from a stopped gateway, and honestly where neither answers."""

from __future__ import annotations

import base64
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gateway.admin import status_row
from gateway.journal.audit_check import Fault, Finding
from gateway.model.errors import IntegrityError, LockedError, StorageError, UnavailableError
from gateway.model.state import GatewayState
from gateway.observe.status import stale
from gateway.transport.unix_socket import LineClient
from tests.admin.fake_gateway import BODY, CANARY, INCARNATION, OfflineGateway, event_id, status_of_two_routes

if TYPE_CHECKING:
    from click.testing import Result

    from tests.admin.conftest import Bench

LOCKED = LockedError("key-missing", "the key file does not exist: put the key there")
NEED_A_KEY: tuple[tuple[str, ...], ...] = (
    ("queue", "ls"),
    ("queue", "show", event_id(1)),
    ("dead-letter", "ls"),
    ("dead-letter", "show", event_id(3)),
    ("refused", "ls"),
    ("refused", "show", "5"),
    ("trace", event_id(1)),
    ("audit", "verify"),
)
#: command -> what its plain output holds.
READING: tuple[tuple[tuple[str, ...], str], ...] = (
    (("queue", "ls"), "hl7.v2.ADT.A01"),
    (("queue", "show", event_id(1)), "ordering key"),
    (("dead-letter", "ls"), "rejected"),
    (("dead-letter", "show", event_id(3)), "rejected"),
    (("refused", "ls"), "unframed"),
    (("refused", "show", "5"), "10.0.0.9"),
    (("trace", event_id(1)), "deliver"),
    (("audit", "verify"), "is whole"),
)


def parsed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ---------------------------------------------------------------- status


def test_status_of_a_running_gateway_is_its_own_snapshot(bench: Bench) -> None:
    bench.daemon()
    found = parsed(bench.ask("status", "--json"))
    assert (found["gateway"], found["state"], found["incarnation"]) == ("ward-3", "running", INCARNATION)
    assert found["routes"][0]["queued"] == 1
    assert "counts" not in found


def test_status_for_people_is_a_table_with_every_term_of_the_equation(bench: Bench) -> None:
    bench.daemon()
    text = bench.ask("status").stdout
    assert "gateway ward-3 is running" in text
    assert "journal 4.8 MiB of 953.7 MiB, 42 blocks" in text
    heads = text.splitlines()[6].split("  ")
    assert [head.strip() for head in heads if head.strip()] == [
        *("ROUTE", "STATE", "ACCEPTED", "DELIVERED", "QUEUED", "HELD", "DEAD LETTERS", "FILTERED", "GAPS", "OLDEST S"),
        *("NEXT TRY S", "LAST ERROR"),
    ]
    assert text.splitlines()[7].split() == ["everything", "retrying", "10", "5", "1", "1", "1", "1", "1", "12.3", "1.5", "connect-refused"]
    assert text.splitlines()[8].split() == ["copy", "online", "2", "2", *["0"] * 5, "0.0", "-", "-"]
    assert "\x1b" not in text


def test_status_of_a_stopped_gateway_reads_its_journal(bench: Bench) -> None:
    found = parsed(bench.ask("status", "--json"))
    assert found["state"] == "stopped"
    assert found["routes"][0]["accepted"] == 10
    assert bench.offline is not None
    assert bench.offline.closed


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (LOCKED, "locked"),
        (UnavailableError("already-running", "x"), "starting"),
        (StorageError("disk", "x"), "stopped"),
        (IntegrityError("torn", "x"), "stopped"),
    ],
)
def test_status_answers_in_every_state_with_what_was_known_last(bench: Bench, error: LockedError, state: str) -> None:
    bench.offline_error = error
    found = parsed(bench.ask("status", "--json"))
    assert (found["state"], found["counts"], found["cause"]) == (state, "stale", error.code)
    assert [route["name"] for route in found["routes"]] == ["everything", "copy"]
    text = bench.ask("status")
    assert text.exit_code == 0
    assert f"is {state} ({error.code})" in text.stdout
    assert "last known ones" in text.stdout


def test_a_locked_daemon_is_found_though_its_socket_is_not_in_the_state_directory(bench: Bench) -> None:
    bench.fake.picture = stale(status_of_two_routes(), GatewayState.LOCKED, "key-wrong")
    bench.daemon(in_state_dir=False)
    assert list(bench.state_dir.iterdir()) == []
    assert parsed(bench.ask("status", "--json"))["state"] == "locked"


def test_status_with_a_bad_file_ends_with_3_and_says_why(bench: Bench) -> None:
    bench.file.write_text("[gateway]\nid = 3\n")
    done = bench.ask("status", "--json")
    assert done.exit_code == 3
    assert done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("error: gateway.id: not a gateway id; write")
    assert done.stderr.splitlines()[1].startswith("error: keys: missing; add")


# ---------------------------------------------------------------- lists and details


@pytest.mark.parametrize(("command", "word"), READING)
@pytest.mark.parametrize("running", [True, False])
def test_each_command_answers_with_and_without_a_daemon(bench: Bench, command: tuple[str, ...], word: str, *, running: bool) -> None:
    if running:
        bench.daemon()
    done = bench.ask(*command)
    assert done.exit_code == 0, done.output
    assert word in done.stdout
    assert CANARY not in done.output
    as_json = parsed(bench.ask(*command, "--json"))
    assert isinstance(as_json, list) is (command[-1] == "ls" or command[0] == "trace")
    assert CANARY not in str(as_json)


@pytest.mark.parametrize("command", NEED_A_KEY)
@pytest.mark.parametrize("running", [True, False])
def test_what_needs_the_key_ends_with_4_without_it(bench: Bench, command: tuple[str, ...], *, running: bool) -> None:
    bench.fake.error = bench.offline_error = LOCKED
    if running:
        bench.daemon(in_state_dir=False)
    done = bench.ask(*command)
    assert done.exit_code == 4
    assert done.stderr == "error: key-missing: the key file does not exist: put the key there\n"
    assert done.stdout == ""


def test_a_locked_gateway_without_routes_has_no_empty_queue_either(bench: Bench) -> None:
    bench.fake.picture = stale(status_of_two_routes(), GatewayState.LOCKED, "key-wrong")
    bench.daemon()
    done = bench.ask("queue", "ls")
    assert done.exit_code == 4
    assert done.stderr.startswith("error: key-wrong: ")


def test_lists_name_messages_by_event_id(bench: Bench) -> None:
    bench.daemon()
    rows = parsed(bench.ask("queue", "ls", "--json"))
    assert [(row["id"], row["route"]) for row in rows] == [(event_id(1), "everything"), (event_id(2), "everything")]
    assert rows[0] == {
        "id": event_id(1),
        "route": "everything",
        "source": "adt",
        "type": "hl7.v2.ADT.A01",
        "class": "adt",
        "received": "2026-11-25T09:46:40.000000Z",
        "bytes": 700,
        "lane_seq": 1,
        "revision": 0,
    }


def test_the_queue_can_be_narrowed(bench: Bench) -> None:
    fake = bench.daemon()
    assert len(parsed(bench.ask("queue", "ls", "--route", "everything", "--limit", "1", "--json"))) == 1
    assert fake.calls == [("queue", "everything", 1)]
    assert bench.ask("queue", "ls", "--route", "copy").stdout == "nothing is queued\n"
    assert bench.ask("queue", "ls", "--limit", "0").exit_code == 2


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("queue", "show", event_id(99)), "no such message"),
        (("dead-letter", "show", event_id(99)), "no dead letter"),
        (("refused", "show", "99"), "no refused frame"),
        (("trace", event_id(99)), "nothing is recorded"),
        (("queue", "show", "99"), "write it as the lists show it"),
        (("trace", event_id(1, "other")), "this one is ward-3"),
    ],
)
@pytest.mark.parametrize("running", [True, False])
def test_what_is_not_there_ends_with_1_and_says_so(bench: Bench, command: tuple[str, ...], word: str, *, running: bool) -> None:
    if running:
        bench.daemon()
    done = bench.ask(*command)
    assert done.exit_code == 1
    assert word in done.stderr
    assert done.stdout == ""


def test_a_broken_trail_ends_with_1_and_names_the_commit(bench: Bench) -> None:
    bench.daemon().findings = (Finding(Fault.ROW_ALTERED, 7),)
    done = bench.ask("audit", "verify")
    assert done.exit_code == 1
    assert "NOT whole" in done.stdout
    assert "row-altered" in done.stdout
    assert "could not have been seen" in done.stdout
    assert json.loads(bench.ask("audit", "verify", "--json").stdout)["findings"] == [{"commit": 7, "fault": "row-altered"}]


# ---------------------------------------------------------------- content

REVEALING = (
    (("queue", "show", event_id(1)), "message", 1),
    (("dead-letter", "show", event_id(3)), "dead-letter", 3),
    (("refused", "show", "5"), "refused-frame 5", None),
)


@pytest.mark.parametrize(("command", "subject", "seq"), REVEALING)
def test_content_is_shown_on_request_and_the_request_is_recorded_first(
    bench: Bench, command: tuple[str, ...], subject: str, seq: int | None
) -> None:
    fake = bench.daemon()
    done = bench.ask(*command, "--reveal", "--by", "Dr. Kim")
    assert CANARY in done.stdout
    assert "PID|1||100001^^^H^MR||" in done.stdout.splitlines()[-2]
    assert "\x1b" not in done.stdout, "a message must not steer the terminal"
    kind, actor, what, noted = fake.calls[0]
    assert (kind, what, noted) == ("reveal", subject, seq)
    assert str(actor).endswith("by Dr. Kim")
    assert "uid" in str(actor)
    assert '"EG405"' in bench.log.text
    assert CANARY not in bench.log.text
    assert "Kim" not in bench.log.text


@pytest.mark.parametrize("command", [row[0] for row in REVEALING])
def test_where_it_cannot_be_recorded_nothing_is_shown(bench: Bench, command: tuple[str, ...]) -> None:
    bench.daemon().reveal_error = StorageError("read-only", "the disk refuses writes")
    done = bench.ask(*command, "--reveal")
    assert done.exit_code == 5
    assert CANARY not in done.output
    assert "error: read-only: the disk refuses writes" in done.stderr


@pytest.mark.parametrize("command", [row[0] for row in REVEALING])
def test_a_stopped_gateway_reveals_nothing(bench: Bench, command: tuple[str, ...]) -> None:
    done = bench.ask(*command, "--reveal")
    assert done.exit_code == 5
    assert "start it first" in done.stderr
    assert CANARY not in done.output


def test_revealed_bytes_come_back_untouched_as_json(bench: Bench) -> None:
    bench.daemon()
    found = parsed(bench.ask("queue", "show", event_id(1), "--reveal", "--json"))
    assert base64.b64decode(found["data_base64"]) == BODY
    assert found["charset"] == "utf-8"


def test_the_words_of_a_destination_are_content(bench: Bench) -> None:
    bench.daemon()
    assert f"no patient {CANARY}" in bench.ask("dead-letter", "show", event_id(3), "--reveal").stdout
    assert "no patient" not in bench.ask("dead-letter", "show", event_id(3)).stdout


# ---------------------------------------------------------------- tap


def test_tap_shows_envelopes_until_its_count(bench: Bench) -> None:
    bench.daemon()
    done = bench.ask("tap", "--count", "2")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("(3 left out")
    assert [line.split()[0] for line in lines[1:]] == [event_id(1), event_id(2)]
    assert CANARY not in done.stdout


def test_tap_as_json_is_one_object_a_line(bench: Bench) -> None:
    bench.daemon()
    rows = [json.loads(line) for line in bench.ask("tap", "--count", "1", "--json").stdout.splitlines()]
    assert rows == [
        {"missed": 3},
        {
            "id": event_id(1),
            "source": "adt",
            "type": "hl7.v2.ADT.A01",
            "class": "adt",
            "received": "2026-11-25T09:46:40.000000Z",
            "bytes": len(BODY),
        },
    ]


def test_tap_reveals_on_request_and_that_is_recorded(bench: Bench) -> None:
    fake = bench.daemon()
    assert CANARY in bench.ask("tap", "--count", "1", "--reveal").stdout
    assert fake.calls[0][0] == "reveal"
    assert fake.calls[1] == ("tap",)


def test_tap_needs_the_daemon(bench: Bench) -> None:
    done = bench.ask("tap", "--count", "1")
    assert done.exit_code == 5
    assert "edge-gateway run" in done.stderr


# ---------------------------------------------------------------- where nobody answers as he should


def test_a_daemon_that_hangs_does_not_hang_status(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_row, "_STATUS_TIMEOUT_S", 0.1)
    bench.daemon().hang = True
    found = parsed(bench.ask("status", "--json"))
    assert (found["state"], found["counts"], found["cause"]) == ("starting", "stale", "no-answer")


def test_a_daemon_of_another_account_is_said_to_be_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: object, _timeout_s: float) -> None:
        raise UnavailableError("not-permitted", "run the command as the account of the gateway")

    monkeypatch.setattr(LineClient, "connect", refuse)
    for command in (("status",), ("queue", "ls")):
        done = bench.ask(*command)
        assert done.exit_code == 5
        assert "as the account of the gateway" in done.stderr


def test_a_daemon_that_came_up_in_between_is_asked_after_all(bench: Bench) -> None:
    def starts_meanwhile(*_: object) -> OfflineGateway:
        bench.daemon()
        raise UnavailableError("already-running", "x")

    bench.open_offline_instead = starts_meanwhile
    assert parsed(bench.ask("status", "--json"))["state"] == "running"


def test_without_a_configuration_each_command_says_how_to_name_one(bench: Bench) -> None:
    done = bench.call("status")
    assert done.exit_code == 2
    assert "-c FILE" in done.stderr
    assert "EDGE_GATEWAY_CONFIG" in done.stderr


def test_a_stopped_gateway_whose_folder_is_gone_is_a_bad_file(bench: Bench) -> None:
    shutil.rmtree(bench.folder)
    assert bench.ask("status").exit_code == 3
