"""What a configuration that is in order becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.model.errors import ConfigurationError
from gateway.settings.fields import ListenAddress
from gateway.settings.load import lint, load
from gateway.settings.template import template
from tests.settings.sample_kinds import KINDS, FileTable, HttpsTable, MllpTable

MINIMAL = '[gateway]\nid = "ward-3"\n[keys]\n'
WHOLE = """
[gateway]
id = "ward-3"
state_dir = "state"
time_zone = "Europe/Berlin"
[keys]
provider = "file"
path = "keys/kek"
[admin]
listen = "127.0.0.1:0"
[[source]]
name = "adt"
type = "mllp"
listen = "127.0.0.1:2575"
allow = ["127.0.0.0/8"]
class = "adt"
tls = { cert = { file = "tls/c.pem" }, key = { file = "tls/k.pem" } }
[[sink]]
name = "cloud"
type = "https"
url = "https://ingest.example.org/v1/events"
token = { file = "keys/token" }
ca_file = "tls/ca.pem"
[[route]]
name = "everything"
from = ["adt"]
to = "cloud"
as = "raw"
on_reject = "stop"
[journal]
quota_bytes = 10000000
retain_days = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.toml"


def test_an_id_and_keys_are_a_complete_configuration(file: Path) -> None:
    file.write_text(MINIMAL)
    found = load(file, KINDS)
    assert found.gateway.id == found.gateway_id == "ward-3"
    assert found.gateway.state_dir == file.parent / "state"
    assert found.gateway.time_zone == "UTC"
    assert (found.keys.provider, found.keys.path) == ("file", file.parent / "keys/kek")
    assert found.admin.listen == ListenAddress("127.0.0.1", 8686)
    assert found.journal.dedupe_keys == 100_000
    assert found.sources == found.sinks == found.routes == ()


def test_every_table_is_read(file: Path) -> None:
    file.write_text(WHOLE)
    found = load(file, KINDS)
    (source,), (sink,), (route,) = found.sources, found.sinks, found.routes
    assert isinstance(source, MllpTable)
    assert source.listen == ListenAddress("127.0.0.1", 2575)
    assert source.kind == "adt"
    assert isinstance(sink, HttpsTable)
    assert found.sink("cloud") is sink
    assert (route.sources, route.sink, route.form, route.on_reject) == (("adt",), "cloud", "raw", "stop")
    assert (found.source_names, found.route_names) == (("adt",), ("everything",))
    assert (found.journal.quota_bytes, found.journal.retain_days) == (10_000_000, 2)


def test_relative_paths_are_relative_to_the_file_at_any_depth(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(WHOLE)
    monkeypatch.chdir(file.parent)
    found = load(Path("gateway.toml"), KINDS)
    (source,), (sink,) = found.sources, found.sinks
    assert isinstance(source, MllpTable)
    assert source.tls is not None
    assert source.tls.cert.file == file.parent / "tls/c.pem"
    assert isinstance(sink, HttpsTable)
    assert sink.token is not None
    assert sink.token.file == file.parent / "keys/token"
    assert sink.ca_file == file.parent / "tls/ca.pem"
    assert found.path == file.parent / "gateway.toml"


def test_absolute_paths_stay(file: Path, tmp_path: Path) -> None:
    file.write_text(MINIMAL + f'path = "{tmp_path}/elsewhere/kek"\n')
    assert load(file, KINDS).keys.path == tmp_path / "elsewhere/kek"


def test_a_star_means_every_source(file: Path) -> None:
    file.write_text(WHOLE.replace('from = ["adt"]', 'from = "*"'))
    assert load(file, KINDS).routes[0].sources is None


def test_an_empty_listen_turns_the_pages_off(file: Path) -> None:
    file.write_text(MINIMAL + '[admin]\nlisten = ""\n')
    assert load(file, KINDS).admin.listen is None


def test_a_credential_needs_no_path(file: Path) -> None:
    file.write_text('[gateway]\nid = "x"\n[keys]\nprovider = "systemd-credential"\n')
    assert load(file, KINDS).keys.name == "gw-kek"


def test_the_digest_is_of_what_the_file_says_not_of_how_or_where(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "there" / "other.toml"
    other.parent.mkdir()
    one.write_text(WHOLE)
    other.write_bytes(b"\xef\xbb\xbf" + ("# words\n" + WHOLE.replace("[admin]", "\n\n[admin]  # x")).encode())
    assert load(one, KINDS).digest == load(other, KINDS).digest
    other.write_text(WHOLE.replace("stop", "continue"))
    assert load(one, KINDS).digest != load(other, KINDS).digest
    assert len(load(one, KINDS).digest) == 64


def test_nothing_of_it_can_be_changed(file: Path) -> None:
    file.write_text(WHOLE)
    found = load(file, KINDS)
    for table, field in ((found.gateway, "id"), (found.routes[0], "sink"), (found.sources[0], "listen")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(table, field, "x")


def test_warnings_do_not_keep_it_from_loading(file: Path) -> None:
    file.write_text(MINIMAL + '[[sink]]\nname = "out"\ntype = "file"\npath = "out.ndjson"\n')
    found = load(file, KINDS)
    assert isinstance(found.sinks[0], FileTable)
    assert {issue.path for issue in found.warnings} == {"source", "sink[out]"}
    assert not any(issue.fatal for issue in found.warnings)


def test_files_that_it_names_need_not_be_there_to_load_it(file: Path) -> None:
    file.write_text(WHOLE)
    load(file, KINDS)
    assert any(issue.path == "keys.path" for issue in lint(file, KINDS))


def test_what_init_writes_loads_without_an_error(file: Path) -> None:
    file.write_text(template("ward-3", "Europe/Berlin"))
    found = load(file, KINDS)
    assert (found.gateway.id, found.gateway.time_zone) == ("ward-3", "Europe/Berlin")
    assert (found.source_names, found.route_names) == (("adt",), ("everything",))
    file.parent.joinpath("keys").mkdir()
    (file.parent / "keys/kek").write_text("k" * 64)
    (file.parent / "keys/kek").chmod(0o600)
    assert [(issue.path, issue.fatal) for issue in lint(file, KINDS)] == [("sink[archive]", False)]


def test_what_init_writes_in_comments_is_right_too(file: Path) -> None:
    """Every commented setting, uncommented, is one that the tables know."""
    text = template("ward-3")
    for line in text.splitlines():
        if (line.startswith("# ") and " = " in line) or line.startswith("# ["):
            text = text.replace(line, line.removeprefix("# "))
    file.write_text(text)
    found = load(file, KINDS)
    assert len(found.sinks) == 2
    assert found.journal.retain_days == 7


def test_the_error_lists_every_issue(file: Path) -> None:
    file.write_text('[gateway]\nid = "A"\nx = 1\n')
    with pytest.raises(ConfigurationError) as caught:
        load(file, KINDS)
    assert [issue.path for issue in caught.value.issues] == ["gateway.id", "gateway.x", "keys"]
