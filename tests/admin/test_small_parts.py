"""Places, instants, tables, the tap's feed and the pages: each by itself."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.http import AdminPages, serve_pages
from gateway.admin.place import SocketPlaces, is_private, make_private
from gateway.admin.ports import Actor, TapLine
from gateway.admin.tap_feed import TapFeed
from gateway.admin.times import parse_instant
from gateway.admin.view import Column, content_text, facts, printable, sheet_text, show_status
from gateway.admin.wire import exit_code
from gateway.model.errors import ConfigurationError, GatewayError, LockedError, PermanentError, StorageError, UnavailableError
from gateway.model.state import GatewayState
from gateway.observe.status import as_json
from gateway.settings.fields import ListenAddress
from gateway.transport.unix_socket import PATH_MAX_BYTES
from tests.admin.fake_gateway import RECEIVED_US, status_of_two_routes

if TYPE_CHECKING:
    from gateway.admin.rows import Row

# ---------------------------------------------------------------- places


def test_the_socket_lies_in_the_state_directory_where_it_can(tmp_path: Path) -> None:
    found = SocketPlaces(tmp_path, {"RUNTIME_DIRECTORY": "/run/gw:/run/other", "XDG_RUNTIME_DIR": "/run/user/1"}, 7).all()
    assert found[0] == tmp_path / "admin.sock"
    assert [str(path.parent) for path in found[1:4]] == ["/run/gw", "/run/edge-gateway", "/run/user/1/edge-gateway"]
    assert found[-1].parent == Path("/tmp/edge-gateway-7")


def test_a_long_path_is_replaced_by_a_hashed_name_that_both_ends_find(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    here = SocketPlaces(deep, {"RUNTIME_DIRECTORY": "/run/gw"}, 0)
    assert here.all() == here.outside()
    assert here.all()[0].parent == Path("/run/gw")
    assert here.hashed_name == SocketPlaces(deep / ".." / ("y" * 60), {}, 0).hashed_name
    assert here.hashed_name != SocketPlaces(tmp_path, {}, 0).hashed_name
    assert all(len(os.fsencode(path)) <= PATH_MAX_BYTES for path in here.all())


def test_locked_places_leave_the_state_directory_out(tmp_path: Path) -> None:
    found = SocketPlaces(tmp_path, {"TMPDIR": "/elsewhere"}, 7)
    assert tmp_path not in [path.parent for path in found.outside()]
    assert Path("/elsewhere/edge-gateway-7") in [path.parent for path in found.outside()]


def test_only_a_directory_of_ones_own_is_private(tmp_path: Path) -> None:
    me = os.geteuid()
    assert make_private(tmp_path / "a", me)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    (tmp_path / "b").mkdir()
    (tmp_path / "b").chmod(0o777)
    assert not make_private(tmp_path / "b", me)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert not is_private(tmp_path / "c", me)
    (tmp_path / "d").write_text("")
    assert not is_private(tmp_path / "d", me)
    assert not make_private(tmp_path / "no" / "parent", me)
    os.chown(tmp_path / "a", me, -1)
    assert is_private(tmp_path / "a", me)
    assert is_private(tmp_path / "a", 4242) is (me == 0)


# ---------------------------------------------------------------- instants


@pytest.mark.parametrize(
    ("text", "expected_us"),
    [
        ("90s", RECEIVED_US - 90_000_000),
        ("2h", RECEIVED_US - 7_200_000_000),
        ("3d", RECEIVED_US - 3 * 86_400_000_000),
        ("999999999d", 0),
        ("1970-01-01T00:00Z", 0),
        ("2026-11-25T10:00", 1_795_597_200_000_000),
        ("2026-11-25 10:00:00.5+01:00", 1_795_597_200_500_000),
        ("2026-11-25", 1_795_561_200_000_000),
        ("yesterday", None),
        ("", None),
        ("5", None),
        ("2026-13-01T00:00", None),
    ],
)
def test_instants_are_read_as_people_write_them(text: str, expected_us: int | None) -> None:
    assert parse_instant(text, RECEIVED_US, "Europe/Berlin") == expected_us


@given(st.text(max_size=30))
def test_no_text_breaks_the_clock(text: str) -> None:
    found = parse_instant(text, RECEIVED_US, "UTC")
    assert found is None or isinstance(found, int)


# ---------------------------------------------------------------- tables


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    columns = (Column("name", "NAME"), Column("count", "COUNT", right=True), Column("more", "MORE"))
    rows: list[Row] = [{"name": "a", "count": 5}, {"name": "longer", "count": 12345, "more": {"x": 1, "y": None}}]
    assert sheet_text(columns, rows) == "NAME    COUNT  MORE\na           5  -\nlonger  12345  x=1 y=-"


@given(st.text())
def test_nothing_printable_can_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert "\n" not in sheet_text((Column("x", "X"),), [{"x": text}]).partition("\n")[2]


@given(st.binary(max_size=200), st.sampled_from(["utf-8", "iso8859-1", "utf-16", "", "no-such", "utf-7"]))
def test_any_content_can_be_shown_in_any_character_set(body: bytes, charset: str) -> None:
    shown = content_text({"data_base64": base64.b64encode(body).decode(), "charset": charset})
    assert all(line.isprintable() for line in shown.split("\n"))


def test_segments_stand_on_lines_of_their_own() -> None:
    assert content_text({"data_base64": "TVNIfGENClBJRHxiDVpFRHxj", "charset": "utf-8"}) == "MSH|a\nPID|b\nZED|c"
    assert content_text({"data_base64": "?"}) == "(not readable)"


def test_one_row_is_shown_as_facts() -> None:
    assert facts({"id": "x", "lane_seq": 5, "none": None}) == "id        x\nlane seq  5\nnone      -"


def test_a_terminal_gets_lines_and_colours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    show_status(as_json(status_of_two_routes()))
    shown = capsys.readouterr().out
    assert "everything" in shown
    assert "connect-refused" in shown
    assert "─" in shown


# ---------------------------------------------------------------- errors and actors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermanentError("x"), 1),
        (ConfigurationError(()), 3),
        (LockedError("x"), 4),
        (UnavailableError("x"), 5),
        (StorageError("x"), 5),
        (GatewayError("x"), 1),
    ],
)
def test_exit_codes_follow_from_the_class_of_the_error(error: GatewayError, code: int) -> None:
    assert exit_code(error) == code


def test_an_actor_is_the_account_and_beside_it_the_name_given() -> None:
    assert str(Actor("anna", 1000)) == "anna (uid 1000)"
    assert str(Actor("anna", 1000, "Dr. Kim")) == "anna (uid 1000) by Dr. Kim"


# ---------------------------------------------------------------- the tap's feed


def line(seq: int, size: int = 10) -> TapLine:
    return TapLine(f"g/{'0' * 32}/{seq}", "adt", "hl7.v2.other", "other", 0, b"x" * size, "utf-8")


async def test_a_slow_reader_misses_lines_and_learns_how_many() -> None:
    feed = TapFeed()
    reading = feed.subscribe()
    watched = [feed.watched]
    first = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    watched.append(feed.watched)
    for seq in range(1500):
        feed.publish(line(seq))
    assert await first == line(0)
    got = [await anext(reading) for _ in range(1000)]
    assert got == [*(line(seq) for seq in range(1, 1000)), 500]
    feed.publish(line(1500))
    assert await anext(reading) == line(1500)
    await reading.aclose()
    assert [*watched, feed.watched] == [False, True, False]


async def test_a_reader_holds_a_bounded_number_of_bytes() -> None:
    feed = TapFeed()
    reading = feed.subscribe()
    first = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    for seq in range(6):
        feed.publish(line(seq, 3 * 1024 * 1024))
    await first
    rest = [await anext(reading), await anext(reading)]
    assert isinstance(rest[0], TapLine)
    assert rest[1] == 4
    await reading.aclose()


async def test_each_reader_gets_every_line() -> None:
    feed = TapFeed()
    readers = [feed.subscribe() for _ in range(3)]
    waiting = [asyncio.ensure_future(anext(reader)) for reader in readers]
    await asyncio.sleep(0)
    feed.publish(line(7))
    assert await asyncio.gather(*waiting) == [line(7)] * 3
    for reader in readers:
        await reader.aclose()


# ---------------------------------------------------------------- pages


async def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = {"Host": f"127.0.0.1:{port}", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
    got = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    status, _, rest = got.partition(b"\r\n")
    return int(status.split()[1]), rest.partition(b"\r\n\r\n")[2]


async def test_the_pages_say_state_readiness_and_metrics() -> None:
    states = [GatewayState.RUNNING]
    server = serve_pages(ListenAddress("127.0.0.1", 0), AdminPages(lambda: states[0], lambda: b"metric 1\n"))
    await server.start()
    port = server.address[1]
    assert await get(port, "/healthz") == (200, b'{"state":"running"}')
    assert await get(port, "/readyz") == (200, b'{"state":"running"}')
    assert await get(port, "/metrics") == (200, b"metric 1\n")
    states[0] = GatewayState.LOCKED
    assert await get(port, "/healthz") == (200, b'{"state":"locked"}')
    assert await get(port, "/readyz") == (503, b'{"state":"locked"}')
    assert (await get(port, "/elsewhere"))[0] == 404
    await server.stop(0)


async def test_a_browser_under_a_foreign_name_is_refused() -> None:
    server = serve_pages(ListenAddress("127.0.0.1", 0), AdminPages(lambda: GatewayState.RUNNING, lambda: b""))
    await server.start()
    port = server.address[1]
    for host in ("evil.example:80", "10.0.0.1", "[::1", "127.0.0.1.evil.example", ""):
        assert (await get(port, "/healthz", Host=host))[0] in (400, 421), host
    for host in ("localhost", f"127.0.0.1:{port}", "[::1]:99"):
        assert (await get(port, "/healthz", Host=host))[0] == 200, host
    assert (await get(port, "/metrics", Origin="https://evil.example"))[0] == 403
    assert (await get(port, "/metrics", Origin="null"))[0] == 403
    assert (await get(port, "/metrics", Origin=f"http://localhost:{port}"))[0] == 200
    await server.stop(0)
