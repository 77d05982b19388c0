"""The log says what happened, in a closed vocabulary, and has no way to say anything else."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.events import FIELDS, WITHHELD, FieldKind, Level, LogEvent, admissible
from gateway.observe.log import LINES_PER_WINDOW, WINDOW_S, EventLog, render
from gateway.observe.rerouting import LoopExceptions, install, place_of
from tests.observe.watch import Clock, Lines

if TYPE_CHECKING:
    from collections.abc import Iterator

CANARY = "ZQDOE^JANE 100001"
#: One admissible value of each kind.
SAMPLES: dict[FieldKind, object] = {
    FieldKind.NAME: "adt",
    FieldKind.CODE: "connect-refused",
    FieldKind.SYMBOL: "aiohttp.server",
    FieldKind.PLACE: "gateway.route.route:77",
    FieldKind.HEX: "0123456789abcdef",
    FieldKind.ADDRESS: "127.0.0.1:2575",
    FieldKind.EVENT_ID: "ward-3/0123456789abcdef0123456789abcdef/7",
    FieldKind.VERSION: "0.1.0",
    FieldKind.SETTING: "source[adt].listen",
    FieldKind.NUMBER: 5,
}


def new_log(level: Level = Level.DEBUG) -> tuple[EventLog, Lines, Clock]:
    lines, clock = Lines(), Clock()
    return EventLog(clock, lines, level), lines, clock


def test_a_line_is_one_json_object_with_time_level_code_and_event() -> None:
    log, lines, _ = new_log()
    log.emit(LogEvent.SOURCE_LISTENING, source="adt", address="127.0.0.1:2575")
    assert lines.text.endswith("\n")
    assert lines.flushed == 1
    assert lines.objects == [
        {
            "time": "2026-11-25T09:46:40.000000Z",
            "level": "info",
            "code": "EG101",
            "event": "source-listening",
            "source": "adt",
            "address": "127.0.0.1:2575",
        }
    ]


def test_codes_are_unique_and_fields_are_declared_once() -> None:
    specs = [event.spec for event in LogEvent]
    assert len({spec.code for spec in specs}) == len(specs)
    for spec in specs:
        assert re.fullmatch(r"EG\d{3}", spec.code)
        assert spec.meaning
        assert set(spec.fields) <= FIELDS.keys()
    assert FIELDS.keys() == {name for spec in specs for name in spec.fields}, "a field that no event has"


@pytest.mark.parametrize("event", LogEvent)
def test_every_event_takes_its_own_fields(event: LogEvent) -> None:
    log, lines, _ = new_log()
    log.emit(event, **{name: SAMPLES[FIELDS[name]] for name in event.spec.fields})
    (line,) = lines.objects
    assert len(line) == 4 + len(event.spec.fields)
    assert WITHHELD not in line.values()


@pytest.mark.parametrize("event", LogEvent)
def test_text_of_a_peer_never_gets_into_a_line(event: LogEvent) -> None:
    careless = [CANARY, CANARY.encode(), ValueError(CANARY), {"x": CANARY}, [CANARY], None, f"adt\n{CANARY}"]
    for value in careless:
        line = render(event, "t", {**dict.fromkeys(FIELDS, value), "free_text": value})
        assert "ZQDOE" not in line
        assert "free_text" not in line
        assert "\n" not in line


@given(name=st.sampled_from(sorted(FIELDS)), value=st.text() | st.binary() | st.integers() | st.floats() | st.booleans() | st.none())
def test_what_is_admissible_has_the_shape_of_its_field(name: str, value: Any) -> None:
    if admissible(name, value):
        kind = FIELDS[name]
        if kind is FieldKind.NUMBER:
            assert isinstance(value, int | float)
        else:
            assert isinstance(value, str)
            assert value.isascii()
            assert value.isprintable()
            assert " " not in value
    event = next(event for event in LogEvent if name in event.spec.fields)
    assert "\n" not in render(event, "t", {name: value})


def test_lines_below_the_level_are_not_written() -> None:
    log, lines, _ = new_log(Level.WARNING)
    log.emit(LogEvent.CONNECTION_OPENED, source="adt")
    log.emit(LogEvent.SOURCE_LISTENING, source="adt")
    log.emit(LogEvent.FRAME_REFUSED, source="adt", code="unframed")
    assert [line["event"] for line in lines.objects] == ["frame-refused"]


def test_a_flood_of_one_event_is_cut_short_and_counted() -> None:
    log, lines, clock = new_log()
    for _ in range(LINES_PER_WINDOW + 25):
        log.emit(LogEvent.FRAME_REFUSED, source="adt", code="unframed")
    log.emit(LogEvent.UNABLE, source="adt", code="journal-full")
    assert len(lines.objects) == LINES_PER_WINDOW + 1
    clock.now_s += WINDOW_S
    log.emit(LogEvent.FRAME_REFUSED, source="adt", code="unframed")
    withheld, line = lines.objects[-2:]
    assert (withheld["event"], withheld["error_code"], withheld["count"]) == ("lines-withheld", "frame-refused", 25)
    assert line["event"] == "frame-refused"


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
def test_a_broken_stderr_stops_nothing(error: type[Exception]) -> None:
    log, lines, _ = new_log()
    lines.broken = error
    log.emit(LogEvent.SOURCE_LISTENING, source="adt")


# ---------------------------------------------------------------- what others print


@pytest.fixture
def rerouted() -> Iterator[Lines]:
    log, lines, _ = new_log()
    root = logging.getLogger()
    kept = root.handlers[:], root.level, logging.raiseExceptions
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    install(log)
    yield lines
    logging.captureWarnings(capture=False)
    for added in root.handlers[:]:
        root.removeHandler(added)
    for old in kept[0]:
        root.addHandler(old)
    root.setLevel(kept[1])
    logging.raiseExceptions = kept[2]
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def test_a_librarys_line_shows_its_name_and_level_and_nothing_else(rerouted: Lines) -> None:
    logging.getLogger("aiohttp.server").error("bad request %s", CANARY, exc_info=ValueError(CANARY))
    logging.getLogger(CANARY).warning(CANARY)
    logging.getLogger("chatty").info(CANARY)
    named, unnamed = rerouted.objects
    assert (named["event"], named["library"], named["library_level"]) == ("library-line", "aiohttp.server", "error")
    assert unnamed["library"] == WITHHELD
    assert "ZQDOE" not in rerouted.text


def test_warnings_are_library_lines_too(rerouted: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn(CANARY, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert rerouted.objects[0]["library"] == "py.warnings"
    assert "ZQDOE" not in rerouted.text


def fail() -> None:
    raise KeyError(CANARY)


def test_an_uncaught_exception_shows_its_class_and_place(rerouted: Lines) -> None:
    with pytest.raises(KeyError) as caught:
        fail()
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert place_of(caught.tb) == f"tests.observe.test_log:{fail.__code__.co_firstlineno + 1}"
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    (line,) = rerouted.objects
    assert (line["event"], line["error"]) == ("crashed", "KeyError")
    assert line["place"].startswith("tests.observe.test_log:")
    assert "ZQDOE" not in rerouted.text


def test_threads_and_finalisers_say_no_more(rerouted: Lines) -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()

    class Careless:
        def __del__(self) -> None:
            fail()

    Careless()
    gc.collect()
    assert [line["error"] for line in rerouted.objects] == ["KeyError", "KeyError"]
    assert "ZQDOE" not in rerouted.text


async def test_the_loops_last_resort_says_no_more() -> None:
    log, lines, _ = new_log()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopExceptions(log))
    loop.call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_exception_handler({"message": CANARY})
    loop.set_exception_handler(None)
    assert [line["error"] for line in lines.objects] == ["KeyError", "LoopTrouble"]
    assert "ZQDOE" not in lines.text
