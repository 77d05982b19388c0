"""Every problem, all at once, each with its place and the way to mend it; and never a value."""

from __future__ import annotations

import os
import string
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import Issue
from gateway.settings.load import lint
from tests.settings.sample_kinds import KINDS
from tests.settings.test_load import MINIMAL, WHOLE

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "hunter2-hunter2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file beside which everything that ``WHOLE`` names lies, as it should."""
    for name in ("keys/kek", "keys/token", "tls/c.pem", "tls/k.pem", "tls/ca.pem"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
        (tmp_path / name).chmod(0o600)
    return tmp_path / "gateway.toml"


def issues(file: Path, text: str) -> dict[str, Issue]:
    file.write_text(text)
    found = lint(file, KINDS)
    for issue in found:
        assert issue.path
        assert issue.reason
        assert issue.fix
        assert CANARY not in f"{issue}"
    assert len(set(found)) == len(found), found
    return {issue.path: issue for issue in reversed(found)}


def test_a_file_in_order_has_nothing_to_complain_about(file: Path) -> None:
    assert issues(file, WHOLE) == {}


def test_everything_is_found_in_one_run(file: Path) -> None:
    text = """
[gateway]
id = "Ward 3"
stat_dir = "x"
time_zone = "Mars/Olympus"
[keys]
provider = "fil"
[jurnal]
[[source]]
name = "a b"
type = "mllp"
listen = "2575"
ack = "both"
allow = ["10.0.0.1/8", 5]
[[source]]
type = "mqtt"
[[sink]]
name = "cloud"
type = "https"
url = "ftp://x"
token = "hunter2-hunter2"
[[route]]
name = "r"
from = ["adt"]
to = "clod"
"""
    assert {path: issue.reason for path, issue in issues(file, text).items() if issue.fatal} == {
        "jurnal": "unknown table",
        "gateway.id": "not a gateway id",
        "gateway.stat_dir": "unknown key",
        "gateway.time_zone": "not a time zone known here",
        "keys.provider": "not one of the known words",
        "source[#1].name": "has characters that are not allowed",
        "source[#1].listen": "not an address",
        "source[#1].ack": "not one of the known words",
        "source[#1].allow[0]": "not a network",
        "source[#1].allow[1]": "not a network",
        "source[#2].type": "no such kind in this version",
        "sink[cloud].token": "a secret is a reference, never a value",
        "route[r].from[0]": "no source has this name",
        "route[r].to": "no sink has this name",
    }


@pytest.mark.parametrize(
    ("old", "new", "path", "reason", "fix"),
    [
        ('id = "ward-3"', "id = 3", "gateway.id", "not a gateway id", "a-z, 0-9"),
        ('id = "ward-3"', "", "gateway.id", "missing", "add it"),
        ("[keys]", "[keyz]", "keys", "missing", "[keys]"),
        ("state_dir =", "statedir =", "gateway.statedir", "unknown key", "did you mean state_dir?"),
        ('state_dir = "state"', "state_dir = 5", "gateway.state_dir", "not a file name", "quotes"),
        ('provider = "file"', 'provider = "pkcs11"', "keys", 'provider "pkcs11" is not in this version', "systemd-credential"),
        ('provider = "file"', 'provider = "systemd-credential"', "keys", '"path" is for provider "file"', "remove it"),
        ('listen = "127.0.0.1:0"', 'listen = "0.0.0.0:8686"', "admin.listen", "not a loopback address", "127.0.0.1:8686"),
        ('listen = "127.0.0.1:0"', 'listen = "8686"', "admin.listen", "not an address", "host:port"),
        ('listen = "127.0.0.1:2575"', 'listen = "127.0.0.1:99999"', "source[adt].listen", "not an address", "host:port"),
        ("[[source]]", "[source]", "source", "not a list of tables", "[[source]] with two brackets"),
        ("[gateway]", "[[gateway]]", "gateway", "not a table", "write [gateway] once"),
        ('type = "mllp"', "", "source[adt].type", "missing", '"mllp"'),
        ('type = "mllp"', 'type = "mlp"', "source[adt].type", "no such kind in this version", "did you mean mllp?"),
        ('type = "https"', "type = 5", "sink[cloud].type", "no such kind in this version", '"file" or "https"'),
        ('name = "adt"', 'name = "gateway"', "source[gateway].name", "this name stands for events", "another name"),
        ('from = ["adt"]', "from = []", "route[everything].from", "not a list of source names", '"*"'),
        ('from = ["adt"]', 'from = "adt"', "route[everything].from", "not a list of source names", '"*"'),
        ('from = ["adt"]', 'from = ["adt", "adt"]', "route[everything].from", "names a source twice", "once"),
        ('from = ["adt"]', 'from = ["atd"]', "route[everything].from[0]", "no source has this name", "did you mean adt?"),
        ('to = "cloud"', 'to = "clowd"', "route[everything].to", "no sink has this name", "did you mean cloud?"),
        ('as = "raw"', 'as = "fhir"', "route[everything]", "this form is not in this version", 'as = "raw"'),
        ('as = "raw"', 'as = "xml"', "route[everything].as", "not one of the known words", "raw"),
        ('on_reject = "stop"', 'on_reject = "panic"', "route[everything].on_reject", "not one of the known words", "'continue' or 'stop'"),
        ("quota_bytes = 10000000", "quota_bytes = -1", "journal.quota_bytes", "too small", "at least 0"),
        ("quota_bytes = 10000000", 'quota_bytes = "1 GB"', "journal.quota_bytes", "not a whole number", "digits"),
        ("quota_bytes = 10000000", "quota_bytes = true", "journal.quota_bytes", "not a whole number", "digits"),
        ("quota_bytes = 10000000", "quota_bytes = 1000", "journal", "quota_bytes is below 1 MiB", "1048576"),
        ("retain_days = 2", "reserve_bytes = 10000000", "journal", "reserve_bytes leaves nothing", "half"),
        ("https://ingest", "http://ingest", "sink[cloud].url", "http:// would send patient data unencrypted", "insecure = true"),
        ("https://ingest", "https://hunter2-hunter2@ingest", "sink[cloud].url", "holds credentials", "token"),
        ("https://ingest.example.org/v1/events", "ingest", "sink[cloud].url", "not an http(s) address", "https://"),
        ("https://ingest.example.org/v1/events", "https://[::1", "sink[cloud].url", "not an http(s) address", "https://"),
        ("token = { file = ", "token = { path = ", "sink[cloud].token.path", "unknown key", "known here: credential, file"),
        ('token = { file = "keys/token" }', "token = {}", "sink[cloud].token", "needs file or credential", "file ="),
        ('token = { file = "keys/token" }', "token = 5", "sink[cloud].token", "not a table", "{ key"),
        (
            'token = { file = "keys/token" }',
            'token = { credential = "../x" }',
            "sink[cloud].token",
            "not the name of a credential",
            "letters",
        ),
        (', key = { file = "tls/k.pem" }', "", "source[adt].tls.key", "missing", "add it"),
        ('path = "keys/kek"', 'path = "state/kek"', "keys.path", "lies inside gateway.state_dir", "keys/kek"),
        ('path = "keys/kek"', 'path = "./keys/../state/deep/kek"', "keys.path", "lies inside gateway.state_dir", "keys/kek"),
        ('listen = "127.0.0.1:0"', 'listen = "localhost:2575"', "admin.listen", "source[adt].listen listens at the same address", "port"),
    ],
)
def test_each_mistake_has_its_place_and_its_fix(file: Path, old: str, new: str, path: str, reason: str, fix: str) -> None:
    assert old in WHOLE
    found = issues(file, WHOLE.replace(old, new))
    assert path in found, found
    assert reason in found[path].reason
    assert fix in found[path].fix
    assert found[path].fatal


def test_a_broken_table_is_reported_once_not_again_by_those_that_name_it(file: Path) -> None:
    text = WHOLE.replace('listen = "127.0.0.1:2575"', "listen = 1").replace("https://ingest", "htt://ingest")
    assert set(issues(file, text)) == {"source[adt].listen", "sink[cloud].url"}
    broken_route = WHOLE.replace('on_reject = "stop"', "on_reject = 1")
    assert set(issues(file, broken_route)) == {"route[everything].on_reject"}


def test_names_are_unique_in_their_kind(file: Path) -> None:
    twice = WHOLE + '[[sink]]\nname = "cloud"\ntype = "file"\npath = "out"\n[[route]]\nname = "everything"\nfrom = "*"\nto = "cloud"\n'
    found = issues(file, twice)
    assert "2 tables have this name" in found["sink[cloud].name"].reason
    assert "route[everything].name" in found


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:2575", "127.0.0.1:2575", True),
        ("0.0.0.0:2575", "10.0.0.1:2575", True),
        ("[::]:2575", "[::1]:2575", True),
        ("127.0.0.1:2575", "127.0.0.1:2576", False),
        ("10.0.0.1:2575", "10.0.0.2:2575", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_listeners_need_two_addresses(file: Path, one: str, other: str, *, clash: bool) -> None:
    text = WHOLE.replace("127.0.0.1:2575", one).replace('from = ["adt"]', 'from = "*"')
    found = issues(file, f'{text}[[source]]\nname = "b"\ntype = "mllp"\nlisten = "{other}"\n')
    assert ("source[b].listen" in found) is clash


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9"])
def test_plain_http_is_fine_on_this_machine(file: Path, host: str) -> None:
    assert issues(file, WHOLE.replace("https://ingest.example.org", f"http://{host}:8080")) == {}


def test_insecure_is_allowed_and_warned_about(file: Path) -> None:
    found = issues(file, WHOLE.replace('url = "https', 'insecure = true\nurl = "http'))
    assert list(found) == ["sink[cloud].url"]
    assert not found["sink[cloud].url"].fatal


def test_a_proxy_may_be_plain_but_not_carry_a_password(file: Path) -> None:
    assert issues(file, WHOLE.replace('ca_file = "tls/ca.pem"', 'proxy = "http://proxy:3128"')) == {}
    assert "sink[cloud].proxy" in issues(file, WHOLE.replace('ca_file = "tls/ca.pem"', f'proxy = "http://u:{CANARY}@proxy:3128"'))


def test_what_goes_nowhere_is_a_warning(file: Path) -> None:
    found = issues(file, MINIMAL + '[[source]]\nname = "a"\ntype = "mllp"\nlisten = "127.0.0.1:1"\n')
    assert {path: issue.fatal for path, issue in found.items()} == {"source[a]": False}
    found = issues(file, WHOLE + '[[sink]]\nname = "spare"\ntype = "file"\npath = "out"\n')
    assert {path: issue.fatal for path, issue in found.items()} == {"sink[spare]": False}
    assert issues(file, MINIMAL)["source"].fatal is False


def test_file_sinks_have_places_of_their_own_outside_the_state_directory(file: Path) -> None:
    sink = '[[sink]]\nname = "{}"\ntype = "file"\npath = "{}"\n'
    found = issues(file, MINIMAL + sink.format("a", "out") + sink.format("b", "out") + sink.format("c", "state/x"))
    assert found["sink[b].path"].fatal
    assert found["sink[c].path"].fatal
    assert "sink[a].path" not in found


def test_a_kind_adds_its_own_findings(file: Path) -> None:
    found = issues(file, WHOLE.replace('class = "adt"', "max_connections = 20000"))
    assert found["source[adt].max_connections"] == Issue(
        "source[adt].max_connections", "more than this machine has", "lower it", fatal=False
    )


def test_a_careless_validator_of_a_kind_gives_nothing_away(file: Path) -> None:
    found = issues(file, WHOLE.replace('ca_file = "tls/ca.pem"', f'note = "bad {CANARY}"'))
    assert found["sink[cloud].note"].reason == "not usable"
    found = issues(file, WHOLE.replace('ca_file = "tls/ca.pem"', 'note = "own words"'))
    assert found["sink[cloud].note"].reason == "a note needs more sense"
    found = issues(file, WHOLE.replace('ca_file = "tls/ca.pem"', "retry = { first_ms = 9000 }"))
    assert "cap_ms is less than first_ms" in found["sink[cloud]"].reason


def test_keys_are_shown_only_where_they_look_like_keys(file: Path) -> None:
    text = WHOLE + f'"{CANARY} and more" = 1\n'
    found = issues(file, text)
    assert found["journal"].reason == "has a key that no setting has"
    assert "retain_days" in found["journal"].fix
    assert "(a key)" in issues(file, f'"{CANARY} and more" = 1\n{WHOLE}')


# ---------------------------------------------------------------- the file itself


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    (issue,) = lint(tmp_path / "none.toml", KINDS)
    assert issue.reason == "does not exist"
    assert "edge-gateway init" in issue.fix


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    (issue,) = lint(tmp_path, KINDS)
    assert issue.reason == "is a directory"
    assert str(tmp_path / "gateway.toml") in issue.fix


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[gateway]\nid = hunter2-hunter2\n", "is not TOML at line 2, column 6"),
        (b'[gateway]\nid = "hunter2-hunter2\n', "is not TOML at line 2, column 22"),
        (b"[gateway]\n[gateway]\n", "is not TOML at line 2"),
        (b"[gateway\xff]\n", "is not UTF-8 text"),
        (b"#" * (4 * 1024 * 1024 + 1), "is larger than 4 MiB"),
        (b"a = [", "is not TOML at end of document"),
        (b"a\x00b", "is not TOML at line 1"),
    ],
)
def test_what_is_not_toml_says_where(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    (issue,) = lint(file, KINDS)
    assert issue.reason.startswith(reason)
    assert CANARY not in str(issue)


def test_deep_nesting_is_no_way_to_break_it(file: Path) -> None:
    file.write_text(WHOLE + "x = " + "[" * 3000 + "]" * 3000)
    (issue,) = [issue for issue in lint(file, KINDS) if issue.fatal]
    assert issue.reason


# ---------------------------------------------------------------- the files that it names


def test_a_key_that_others_can_read_is_an_error(file: Path) -> None:
    (file.parent / "keys/kek").chmod(0o640)
    (file.parent / "keys/token").chmod(0o604)
    (file.parent / "tls/k.pem").chmod(0o644)
    (file.parent / "tls/c.pem").chmod(0o644)
    found = issues(file, WHOLE)
    assert set(found) == {"keys.path", "sink[cloud].token.file", "source[adt].tls.key.file"}
    assert found["keys.path"].fix == f"chmod 600 {file.parent / 'keys/kek'}"


def test_files_that_are_not_there_are_named_by_their_setting(file: Path) -> None:
    (file.parent / "keys/token").unlink()
    (file.parent / "tls/ca.pem").unlink()
    (file.parent / "tls/ca.pem").mkdir()
    (file.parent / "keys/kek").write_text("")
    found = issues(file, WHOLE)
    assert {path: issue.reason for path, issue in found.items()} == {
        "sink[cloud].token.file": "the file does not exist",
        "sink[cloud].ca_file": "not a file",
        "keys.path": "the file is empty",
    }


def test_credentials_are_checked_where_systemd_provides_them(file: Path, tmp_path: Path) -> None:
    file.write_text(WHOLE.replace('token = { file = "keys/token" }', 'token = { credential = "cloud-token" }'))
    (outside,) = lint(file, KINDS)
    assert (outside.path, outside.fatal) == ("sink[cloud].token.credential", False)
    (inside,) = lint(file, KINDS, tmp_path)
    assert (inside.path, inside.fatal) == ("sink[cloud].token.credential", True)
    (tmp_path / "cloud-token").write_text("t")
    assert lint(file, KINDS, tmp_path) == ()


def test_a_state_directory_is_a_directory_of_ones_own(file: Path) -> None:
    state = file.parent / "state"
    state.write_text("")
    assert issues(file, WHOLE)["gateway.state_dir"].reason == "is not a directory"
    state.unlink()
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    assert issues(file, WHOLE)["gateway.state_dir"].reason == "can be written by other accounts"
    state.chmod(0o700)
    assert issues(file, WHOLE) == {}


def test_a_configuration_that_anybody_can_change_is_an_error(file: Path) -> None:
    file.write_text(WHOLE)
    file.chmod(0o666)
    (issue,) = lint(file, KINDS)
    assert issue.reason == "can be changed by every account"
    assert "chmod" in issue.fix


def test_places_that_this_account_cannot_use_are_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = file.parent / "state"
    state.mkdir(mode=0o700)
    closed = {state, file.parent / "keys/token"}
    # The tests may run as root, whom no mode keeps out.
    monkeypatch.setattr(os, "access", lambda path, _mode: path not in closed)
    found = issues(file, WHOLE)
    assert {path: issue.reason for path, issue in found.items()} == {
        "gateway.state_dir": "cannot be used by this account",
        "sink[cloud].token.file": "the file cannot be read by this account",
    }
    assert all("account of the gateway" in issue.fix for issue in found.values())


def test_a_directory_that_cannot_be_made_is_found(file: Path) -> None:
    found = issues(file, WHOLE.replace('state_dir = "state"', 'state_dir = "/proc/self/status/state"'))
    assert found["gateway.state_dir"].reason == "does not exist and cannot be made by this account"
    found = issues(file, MINIMAL + '[[sink]]\nname = "a"\ntype = "file"\npath = "gateway.toml/out"\n')
    assert found["sink[a].path"].fatal


# ---------------------------------------------------------------- any file at all

_KEYS = st.sampled_from(
    ["gateway", "keys", "admin", "journal", "source", "sink", "route", "name", "type", "listen", "from", "to", "id", "url", "x"]
)
_WORDS = st.sampled_from(["mllp", "https", "file", "adt", "*", "127.0.0.1:1", "raw", "", CANARY, "a b"])
_VALUES = st.recursive(
    _WORDS | st.integers(-5, 5) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(string.printable, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return orjson.dumps(value).decode() if not isinstance(value, float) else f"{value:.3f}"


@given(document=st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_toml_at_all_gives_issues_and_never_an_exception_or_a_value(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("\n".join(f"{key} = {as_toml(value)}" for key, value in document.items()))
    found = lint(file, KINDS)
    assert any(issue.fatal for issue in found)
    assert CANARY not in " ".join(f"{issue.path} {issue.reason} {issue.fix}" for issue in found)
