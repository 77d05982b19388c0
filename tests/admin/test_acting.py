"""Commands that act: only the daemon carries them out, it records who asked, and the count is the truth."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING

import pytest

from gateway.model.errors import CapacityError, LockedError, StorageError
from tests.admin.fake_gateway import RECEIVED_US, event_id

if TYPE_CHECKING:
    from gateway.model.errors import GatewayError
    from tests.admin.conftest import Bench

ME = f"{pwd.getpwuid(os.geteuid()).pw_name} (uid {os.geteuid()})"
ACTING: tuple[tuple[str, ...], ...] = (
    ("dead-letter", "replay", event_id(3)),
    ("dead-letter", "discard", event_id(3)),
    ("dead-letter", "replay", "--all", "--route", "everything"),
    ("replay", "--route", "everything", "--since", "2h"),
    ("replay", "--route", "everything", "--since", "2h", "--dry-run"),
)


@pytest.mark.parametrize("command", ACTING)
def test_a_stopped_gateway_does_not_act_and_says_how_to_start_it(bench: Bench, command: tuple[str, ...]) -> None:
    done = bench.ask(*command)
    assert done.exit_code == 5
    assert done.stderr == "error: not-running: the gateway is not running; start it with `edge-gateway run -c FILE` or its unit\n"


@pytest.mark.parametrize("command", ACTING)
@pytest.mark.parametrize(
    ("error", "code"),
    [(LockedError("key-wrong", "fix"), 4), (StorageError("read-only", "fix"), 5), (CapacityError("journal-full", "fix"), 5)],
)
def test_the_daemons_own_errors_keep_their_exit_code_and_fix(
    bench: Bench, command: tuple[str, ...], error: GatewayError, code: int
) -> None:
    bench.daemon().error = error
    done = bench.ask(*command)
    assert done.exit_code == code
    assert done.stderr == f"error: {error.code}: fix\n"
    assert '"EG404"' in bench.log.text


def test_dead_letters_are_replayed_and_it_is_recorded_who_asked_and_why(bench: Bench) -> None:
    fake = bench.daemon()
    done = bench.ask("dead-letter", "replay", event_id(3), event_id(4), event_id(3), "--by", " Dr.\nKim ", "--reason", "mended")
    assert (done.exit_code, done.stdout) == (0, "2 of 2 queued again\n")
    assert fake.calls == [("replay", [3, 4], None, f"{ME} by Dr. Kim", "mended")]
    assert '"EG403"' in bench.log.text
    assert "mended" not in bench.log.text, "what people write goes into the audit trail, not into the log"


def test_discarding_takes_no_terminal_to_ask_on(bench: Bench) -> None:
    fake = bench.daemon()
    done = bench.ask("dead-letter", "discard", event_id(4), "--route", "everything", "--json")
    assert json.loads(done.stdout) == {"count": 1, "asked": 1}
    assert fake.calls == [("discard", [4], "everything", ME, "")]


def test_all_of_a_route_are_those_that_are_there(bench: Bench) -> None:
    fake = bench.daemon()
    assert bench.ask("dead-letter", "discard", "--all", "--route", "everything", "--yes").stdout == "2 of 2 discarded\n"
    assert fake.calls[-1][:2] == ("discard", [3, 4])


def test_what_is_no_dead_letter_makes_the_answer_no(bench: Bench) -> None:
    bench.daemon()
    done = bench.ask("dead-letter", "replay", event_id(3), event_id(77))
    assert (done.exit_code, done.stdout) == (1, "1 of 2 queued again\n")
    assert "no dead letters" in done.stderr
    assert bench.ask("dead-letter", "discard", "--all", "--route", "copy").stdout == "0 of 0 discarded\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "give the ids"),
        (("--all",), "--all needs --route"),
        ((event_id(3), "--all"), "either ids or --all"),
    ],
)
@pytest.mark.parametrize("action", ["replay", "discard"])
def test_it_must_be_clear_which_ones_are_meant(bench: Bench, action: str, arguments: tuple[str, ...], word: str) -> None:
    bench.daemon()
    done = bench.ask("dead-letter", action, *arguments)
    assert done.exit_code == 2
    assert word in done.stderr


def test_ids_that_are_none_are_refused_before_anything_is_done(bench: Bench) -> None:
    fake = bench.daemon()
    done = bench.ask("dead-letter", "discard", event_id(3), "17")
    assert done.exit_code == 1
    assert "not-an-event-id" in done.stderr
    assert fake.calls == []


def test_a_range_is_replayed_between_two_instants(bench: Bench) -> None:
    fake = bench.daemon()
    since, until = "2026-11-25T10:00", "2026-11-25T09:30:00Z"
    done = bench.ask("replay", "--route", "everything", "--since", since, "--until", until, "--reason", "lost")
    assert done.exit_code == 0
    assert done.stdout == "5 queued again (4 delivered, 1 dead letters)\n2 left out: already-queued\n"
    # 10:00 in Berlin, the time zone of the configuration, is 09:00 UTC
    start_us = 1_795_597_200_000_000
    assert fake.calls == [("range", "everything", start_us, start_us + 1_800_000_000, False, ME, "lost")]


def test_until_now_unless_said_otherwise(bench: Bench) -> None:
    fake = bench.daemon()
    done = bench.ask("replay", "--route", "everything", "--since", "90m", "--dry-run", "--json")
    assert json.loads(done.stdout) == {"replayed": 5, "delivered": 4, "dead_letter": 1, "skipped": {"already-queued": 2}, "dry_run": True}
    assert fake.calls[0][2:5] == (RECEIVED_US - 90 * 60_000_000, RECEIVED_US, True)
    assert '"EG403"' not in bench.log.text, "a dry run is no act"


def test_nothing_to_replay_is_a_no(bench: Bench) -> None:
    bench.daemon()
    done = bench.ask("replay", "--route", "everything", "--since", "1970-01-01T00:00Z", "--dry-run")
    assert (done.exit_code, done.stdout) == (1, "0 would be queued again (0 delivered, 0 dead letters)\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--route", "everything"), "--since"),
        (("--since", "2h"), "--route"),
        (("--route", "nowhere", "--since", "2h"), "there is everything, copy"),
        (("--route", "everything", "--since", "yesterday"), "not a time; write 2026-"),
        (("--route", "everything", "--since", "2h", "--until", "3h"), "before --until"),
        (("--route", "everything", "--since", "2h", "--until", "5"), "not a time"),
    ],
)
def test_a_range_that_makes_no_sense_is_a_usage_error(bench: Bench, arguments: tuple[str, ...], word: str) -> None:
    fake = bench.daemon()
    done = bench.ask("replay", *arguments)
    assert done.exit_code == 2
    assert word in done.stderr.replace("\n", " ")
    assert fake.calls == []
