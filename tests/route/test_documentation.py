"""The tables in the READMEs are those of the code."""

from __future__ import annotations

from pathlib import Path

from gateway.route.answers import ANSWERS, OFFLINE_AFTER, Answer
from gateway.sink.https import MEANINGS, Meaning
from gateway.sink.mllp_replies import AMBIGUOUS, DEFAULTS

PACKAGES = Path(__file__).parents[2] / "gateway"


def test_the_route_readme_shows_the_table_of_answers() -> None:
    text = (PACKAGES / "route" / "README.md").read_text("utf-8")
    assert set(ANSWERS) == set(Answer)
    for answer, row in ANSWERS.items():
        state = row.state.value if row.state else "as the sink says"
        assert f"| {answer.value} | {state} | {row.pace.value} | {row.effect.value} |" in text
    assert OFFLINE_AFTER == 3


def test_the_sink_readme_shows_every_status_with_its_meaning() -> None:
    text = (PACKAGES / "sink" / "README.md").read_text("utf-8")
    rest = {Meaning.NO_RECEIPT: "other 2xx", Meaning.FAILURE: "everything else"}
    for meaning in Meaning:
        statuses = ", ".join(str(status) for status, found in MEANINGS.items() if found is meaning) or rest[meaning]
        statuses = f"3xx, {statuses}" if meaning is Meaning.CONFIGURATION else statuses
        assert f"| {statuses} | {meaning.value} |" in text


def test_the_sink_readme_shows_every_reply_with_its_action() -> None:
    text = (PACKAGES / "sink" / "README.md").read_text("utf-8")
    for event, action in DEFAULTS.items():
        assert f"| `{event.value}` | {action.value}{', closes' if event in AMBIGUOUS else ''} |" in text
