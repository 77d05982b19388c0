"""The command group: init, check, run, demo, completion, and the promise that everything explains itself."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from gateway.admin.initialise import gateway_id_of, host_time_zone
from gateway.admin.run_arguments import run_arguments
from tests.admin.conftest import CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.admin.conftest import Bench


# ---------------------------------------------------------------- init


def test_init_makes_a_gateway_that_passes_check(bench: Bench) -> None:
    home = bench.folder / "Ward 3"
    done = bench.call("init", str(home))
    assert done.exit_code == 0, done.output
    assert f"edge-gateway run -c {home / 'gateway.toml'}" in done.stdout
    wrote = tomllib.loads((home / "gateway.toml").read_text())
    assert wrote["gateway"]["id"] == "ward-3"
    assert wrote["source"][0]["listen"] == "127.0.0.1:2575"
    checked = bench.call("check", "-c", str(home / "gateway.toml"))
    assert checked.exit_code == 0
    assert "0 errors, 1 warning" in checked.stdout
    assert not (home / "state").exists(), "the first run makes the journal, init does not"


def test_what_init_makes_is_private(bench: Bench) -> None:
    home = bench.folder / "new"
    before = os.umask(0)
    try:
        bench.call("init", str(home))
    finally:
        os.umask(before)
    modes = {str(path.relative_to(home)): stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")}
    assert modes == {"gateway.toml": 0o600, "keys": 0o700, "keys/kek": 0o600, "out": 0o700}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_init_never_overwrites(bench: Bench) -> None:
    home = bench.folder / "new"
    bench.call("init", str(home))
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    done = bench.call("init", str(home))
    assert done.exit_code == 1
    assert "never overwritten; choose another directory" in done.stderr
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_init_keeps_a_key_that_is_there(bench: Bench) -> None:
    home = bench.folder / "new"
    bench.call("init", str(home))
    key = (home / "keys/kek").read_bytes()
    (home / "gateway.toml").unlink()
    done = bench.call("init", str(home), "--id", "other", "--time-zone", "Europe/Berlin")
    assert done.exit_code == 0
    assert "was there and is kept" in done.stdout
    assert (home / "keys/kek").read_bytes() == key
    assert tomllib.loads((home / "gateway.toml").read_text())["gateway"] == {
        "id": "other",
        "state_dir": "state",
        "time_zone": "Europe/Berlin",
    }


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--id", "Ward 3"), "not a gateway id"),
        (("--time-zone", "Mars"), "not a time zone"),
        (("--time-zone", 'UTC"\n[x]\ny="'), "not a time zone"),
    ],
)
def test_init_writes_nothing_that_check_would_refuse(bench: Bench, arguments: tuple[str, ...], word: str) -> None:
    done = bench.call("init", str(bench.folder / "new"), *arguments)
    assert done.exit_code == 2
    assert word in done.stderr
    assert arguments[0] in done.stderr
    assert not (bench.folder / "new").exists()


def test_init_says_when_something_is_in_the_way(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    done = bench.call("init", str(bench.folder / "file"))
    assert done.exit_code == 1
    assert "in the way" in done.stderr
    done = bench.call("init", "/proc/self/new")
    assert done.exit_code == 5
    assert "check its owner" in done.stderr


@pytest.mark.parametrize(
    ("name", "expected"), [("ward-3", "ward-3"), ("Ward 3 (Süd)", "ward-3-s-d"), ("...", "gateway"), ("x" * 80, "x" * 63), ("-a-", "a")]
)
def test_an_id_comes_from_the_directorys_name(name: str, expected: str) -> None:
    assert gateway_id_of(Path("/srv") / name) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"), ("../zoneinfo/Etc/UTC", "UTC"), ("/elsewhere", "UTC"), (None, "UTC")],
)
def test_the_time_zone_comes_from_the_machine(tmp_path: Path, target: str | None, expected: str) -> None:
    link = tmp_path / "localtime"
    if target is not None:
        link.symlink_to(target)
    assert host_time_zone(link) == expected


# ---------------------------------------------------------------- check


def test_check_lists_all_problems_with_place_reason_and_fix(bench: Bench) -> None:
    bench.file.write_text(CONFIGURATION.replace("[keys]", "[keyz]").replace("127.0.0.1:0", "nowhere"))
    done = bench.ask("check")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert "error: keyz: unknown table; did you mean keys?" in lines
    assert 'error: source[adt].listen: not an address; write host:port in quotes, such as "127.0.0.1:2575" or "[::1]:2575"' in lines
    assert lines[-1] == f"{bench.file}: 3 errors, 0 warnings"
    rows = json.loads(bench.ask("check", "--json").stdout)
    assert {row["path"] for row in rows} == {"keyz", "keys", "source[adt].listen"}
    assert rows[0].keys() == {"level", "path", "reason", "fix"}


def test_check_is_content_with_a_file_in_order(bench: Bench) -> None:
    (bench.folder / "keys").mkdir()
    (bench.folder / "keys/kek").write_text("k")
    (bench.folder / "keys/kek").chmod(0o600)
    done = bench.ask("check")
    assert (done.exit_code, done.stdout) == (0, f"{bench.file}: nothing to complain about\n")
    assert json.loads(bench.ask("check", "--json").stdout) == []


def test_check_of_a_file_that_is_not_there_is_a_no(bench: Bench) -> None:
    bench.file.unlink()
    done = bench.ask("check")
    assert done.exit_code == 1
    assert "does not exist" in done.stdout
    assert "edge-gateway init DIR" in done.stdout


def test_the_configuration_may_come_from_the_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_GATEWAY_CONFIG", str(bench.file))
    with pytest.raises(SystemExit) as ended:
        bench.group().main(["check"], prog_name="edge-gateway")
    assert ended.value.code == 1


# ---------------------------------------------------------------- programs


def test_programs_end_with_their_own_exit_code(bench: Bench) -> None:
    assert bench.ask("run").exit_code == 4
    assert bench.call("demo", "--for", "5").exit_code == 1
    assert bench.call("demo").exit_code == 1
    assert bench.runs == [bench.file, 5.0, None]
    assert bench.call("demo", "--for", "-1").exit_code == 2
    assert bench.call("receive", "--help").exit_code == 0


def test_run_is_read_without_the_command_line_library() -> None:
    assert run_arguments(["-c", "x.toml"], {}) == Path("x.toml")
    assert run_arguments(["--config", "x.toml"], {"EDGE_GATEWAY_CONFIG": "y.toml"}) == Path("x.toml")
    assert run_arguments([], {"EDGE_GATEWAY_CONFIG": "y.toml"}) == Path("y.toml")
    modules = ", ".join(f"gateway.admin.{name}" for name in ("run_arguments", "socket_server", "http", "tap_feed"))
    code = f"import sys, {modules}; sys.exit(bool({{'click', 'rich'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["-c"], 2), (["extra"], 2), (["--help"], 0)])
def test_run_without_a_file_is_a_usage_error(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_arguments(arguments, {})
    assert ended.value.code == code
    if not arguments:
        assert "EDGE_GATEWAY_CONFIG" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_the_commands(bench: Bench, shell: str) -> None:
    done = bench.call("completion", shell)
    assert done.exit_code == 0
    assert "_EDGE_GATEWAY_COMPLETE" in done.stdout


def test_usage_errors_end_with_2(bench: Bench) -> None:
    for arguments in (("doctor",), ("queue", "list"), ("status", "--jason"), ("trace",), ("refused", "show", "five")):
        assert bench.call(*arguments).exit_code == 2, arguments


# ---------------------------------------------------------------- everything explains itself


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_and_option_has_a_help(bench: Bench) -> None:
    for path, command in commands(bench.group()):
        assert command.help, path
        assert command.help.split("\n")[0].endswith((".", "; never overwrites anything.", '"')), path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)
                assert parameter.help.endswith("."), (path, parameter.name)


def test_every_command_that_needs_a_gateway_takes_c_and_every_list_takes_json(bench: Bench) -> None:
    without = {("init",), ("demo",), ("receive",), ("completion",)}
    for path, command in commands(bench.group()):
        if isinstance(command, click.Group) or path in without:
            continue
        options = {name for parameter in command.params for name in parameter.opts}
        assert {"-c", "--config"} <= options, path
        assert "--json" in options or path == ("run",), path


def test_the_design_s_commands_are_all_there(bench: Bench) -> None:
    assert {" ".join(path) for path, _ in commands(bench.group())} == {
        *("init", "check", "run", "demo", "receive", "status", "trace", "tap", "replay", "completion"),
        *("queue", "queue ls", "queue show", "audit", "audit verify", "refused", "refused ls", "refused show"),
        *("dead-letter", "dead-letter ls", "dead-letter show", "dead-letter replay", "dead-letter discard"),
    }


def test_the_help_of_the_whole_lists_the_exit_codes(bench: Bench) -> None:
    done = bench.call("--help")
    assert "5 unavailable" in done.stdout
    assert bench.call("--version").stdout.startswith("edge-gateway, version ")
    assert bench.call("-h").exit_code == 0
