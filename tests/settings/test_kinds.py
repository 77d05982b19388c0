"""The tables of the kinds that exist: one set of rules for all of them, run over the registry."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from gateway.model.errors import ConfigurationError, Issue
from gateway.service.kinds import KINDS
from gateway.settings.load import lint, load
from gateway.settings.problems import inner_model, keys_of
from gateway.settings.tables import TABLES, RouteTable
from gateway.settings.template import template

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel

KIND_MODELS: dict[str, type[BaseModel]] = {
    **{f"source-{name}": model for name, model in KINDS.sources.items()},
    **{f"sink-{name}": model for name, model in KINDS.sinks.items()},
}
ALL: dict[str, type[BaseModel]] = {**TABLES, "route": RouteTable, **KIND_MODELS}
#: The example of the design, as far as its kinds exist.
EXAMPLE = """
[gateway]
id = "ward-3"
state_dir = "state"
time_zone = "Europe/Berlin"
[keys]
provider = "file"
path = "keys/kek"
[admin]
listen = "127.0.0.1:8686"
[[source]]
name = "adt"
type = "mllp"
listen = "127.0.0.1:2575"
max_message_bytes = 16777216
ack = "msh"
when_unable = "nak"
allow = ["127.0.0.0/8"]
senders = [{ app = "MON", facility = "ICU" }]
max_connections = 256
max_connections_per_address = 128
idle_timeout_s = 600
frame_timeout_s = 60
tls = { cert = { file = "c" }, key = { file = "k" }, client_ca = { file = "a" } }
[[sink]]
name = "cloud"
type = "https"
url = "https://ingest.example.org/v1/events"
compression = "gzip"
batch = { max_messages = 500, max_bytes = 262144, linger_ms = 200 }
retry = { first_ms = 200, cap_ms = 5000 }
connect_timeout_s = 5
answer_timeout_s = 10
token = { file = "t" }
tls = { ca = { file = "a" }, cert = { file = "c" }, key = { file = "k" } }
proxy = "http://proxy:3128"
[[route]]
name = "everything"
from = ["adt"]
to = "cloud"
as = "raw"
on_reject = "continue"
[journal]
quota_bytes = 0
reserve_bytes = 0
dedupe_keys = 100000
retain_days = 7
"""


def with_inner(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for key in keys_of(model):
        if (inner := inner_model(model, key)) is not None:
            yield from with_inner(inner)


def test_the_designs_example_is_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(EXAMPLE)
    found = load(file, KINDS)
    assert found.warnings == ()


@pytest.mark.parametrize(("name", "default"), [("max_connections", 256), ("idle_timeout_s", 600), ("frame_timeout_s", 60)])
def test_the_designs_defaults_are_ours(tmp_path: Path, name: str, default: float) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[gateway]\nid = "x"\n[keys]\n[[source]]\nname = "a"\ntype = "mllp"\nlisten = "127.0.0.1:1"\n')
    assert getattr(load(file, KINDS).sources[0], name) == default


def test_what_init_writes_is_in_order_with_the_real_kinds(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(template("ward-3"))
    assert [issue.path for issue in load(file, KINDS).warnings] == ["sink[archive]"]


@pytest.mark.parametrize("name", ALL)
def test_every_table_forbids_what_it_does_not_know_and_never_changes(name: str) -> None:
    for model in with_inner(ALL[name]):
        assert model.model_config.get("extra") == "forbid", model
        assert model.model_config.get("frozen") is True, model
        assert model.model_config.get("hide_input_in_errors") is True, model


@pytest.mark.parametrize("name", KIND_MODELS)
def test_every_kind_has_a_name_and_its_type(name: str) -> None:
    model = KIND_MODELS[name]
    assert {"name", "type"} <= keys_of(model).keys()
    assert inspect.getdoc(model)


@pytest.mark.parametrize("name", [*TABLES, "route"])
def test_every_setting_of_our_own_tables_is_described(name: str) -> None:
    assert inspect.getdoc(ALL[name])
    undescribed = [key for key, field in ALL[name].model_fields.items() if not field.description]
    assert not undescribed


@pytest.mark.parametrize("name", ALL)
def test_units_stand_last_in_the_names_of_settings(name: str) -> None:
    for model in with_inner(ALL[name]):
        for key in keys_of(model):
            assert not any(word in key for word in ("millis", "seconds", "_sec", "kb", "_mb", "duration")), (model, key)


CANARY = "hunter2-hunter2"
WRONG: tuple[Any, ...] = (CANARY, [CANARY], {"x": CANARY}, {CANARY: 1}, True, -1, 1e300, 10**30, [], {}, "", [[[]]], [{"x": [CANARY]}])


def as_toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{key} = {as_toml(item)}' for key, item in value.items())} }}"
        case _:
            return str(value)


@pytest.mark.parametrize("name", KIND_MODELS)
def test_no_value_of_any_setting_breaks_the_check_or_is_quoted(tmp_path: Path, name: str) -> None:
    array, _, kind = name.partition("-")
    file = tmp_path / "gateway.toml"
    required = {"listen": '"127.0.0.1:1"', "url": '"https://x/"', "path": '"out"', "address": '"127.0.0.1:2"'}
    model = KIND_MODELS[name]
    for key in set(keys_of(model)) - {"type", "name"}:
        for value in WRONG:
            settings = {given: text for given, text in required.items() if given in keys_of(model)} | {key: as_toml(value)}
            lines = "\n".join(f"{given} = {text}" for given, text in settings.items())
            file.write_text(f'[gateway]\nid = "x"\n[keys]\n[[{array}]]\nname = "a"\ntype = "{kind}"\n{lines}\n')
            shown = [*lint(file, KINDS), *load_issues(file)]
            for issue in shown:
                text = f"{issue.reason} {issue.fix}" + ("" if value == {CANARY: 1} else issue.path)
                assert CANARY not in text, (key, value, issue)


def load_issues(file: Path) -> tuple[Issue, ...]:
    try:
        return load(file, KINDS).warnings
    except ConfigurationError as error:
        return error.issues
