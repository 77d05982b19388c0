"""The settings of the sink kinds: documented, strict, and no secret in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from gateway.settings.fields import SecretReference
from gateway.sink.file_settings import FileSettings
from gateway.sink.https_settings import BatchSettings, HttpsSettings, RetrySettings
from gateway.sink.mllp_replies import ALLOWED, AMBIGUOUS, DEFAULTS, Action, ReplyEvent
from gateway.sink.mllp_settings import MllpSinkSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: dict[type[BaseModel], dict[str, Any]] = {
    HttpsSettings: {"name": "cloud", "type": "https", "url": "https://ingest.example.org/v1"},
    FileSettings: {"name": "archive", "type": "file", "path": "out/m.ndjson"},
    MllpSinkSettings: {"name": "his", "type": "mllp", "address": "10.1.2.3:2575"},
}


def issues(model: BaseModel) -> Iterator[tuple[str, bool]]:
    lint: Any = model
    return ((issue.path, issue.fatal) for issue in lint.lint())


@pytest.mark.parametrize(("kind", "table"), KINDS.items())
def test_the_least_table_is_enough_and_unknown_keys_are_errors(kind: type[BaseModel], table: dict[str, Any]) -> None:
    kind.model_validate(table)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        kind.model_validate(table | {"colour": "red"})


@pytest.mark.parametrize("kind", [*KINDS, BatchSettings, RetrySettings])
def test_every_setting_says_what_it_does(kind: type[BaseModel]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description or name in {"name", "type"}, name


@pytest.mark.parametrize("name", ["token", "client_key"])
def test_secrets_are_references(name: str) -> None:
    table = KINDS[HttpsSettings] | {"client_cert": {"file": "c.pem"}}
    with pytest.raises(ValidationError) as caught:
        HttpsSettings.model_validate(table | {name: "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert isinstance(getattr(HttpsSettings.model_validate(table | {name: {"file": "t"}}), name), SecretReference)


def test_defaults_are_those_of_the_contract() -> None:
    settings = HttpsSettings.model_validate(KINDS[HttpsSettings])
    assert (settings.batch.max_messages, settings.batch.max_bytes, settings.batch.linger_ms) == (500, 262_144, 200)
    assert (settings.retry.first_ms, settings.retry.cap_ms) == (200, 5000)
    assert (settings.connect_timeout_s, settings.answer_timeout_s, settings.compression.value) == (5, 10, "gzip")


@pytest.mark.parametrize(
    ("kind", "more", "path", "fatal"),
    [
        (HttpsSettings, {"retry": {"first_ms": 500, "cap_ms": 100}}, "retry.cap_ms", True),
        (HttpsSettings, {"tls": {"ca": {"file": "a"}}, "ca_file": "b"}, "tls", True),
        (HttpsSettings, {"client_key": {"file": "a"}}, "client_key", True),
        (HttpsSettings, {"url": "http://127.0.0.1/", "server_name": "x"}, "url", False),
        (MllpSinkSettings, {"on_reply": {"timeout": "done"}}, "on_reply", True),
        (MllpSinkSettings, {"on_reply": {"AR": "wait"}}, "on_reply", True),
        (MllpSinkSettings, {}, "tls", False),
    ],
)
def test_what_no_single_field_shows(kind: type[BaseModel], more: dict[str, Any], path: str, fatal: bool) -> None:
    assert (path, fatal) in list(issues(kind.model_validate(KINDS[kind] | more)))


@pytest.mark.parametrize("more", [{"insecure": True}, {"address": "127.0.0.1:2575"}, {"tls": {}}])
def test_nothing_to_say_about_a_good_table(more: dict[str, Any]) -> None:
    assert not list(issues(MllpSinkSettings.model_validate(KINDS[MllpSinkSettings] | more)))


def test_the_reply_table_is_complete_and_allows_its_own_defaults() -> None:
    assert set(DEFAULTS) == set(ALLOWED) == set(ReplyEvent)
    assert all(DEFAULTS[event] in ALLOWED[event] for event in ReplyEvent)
    assert all(Action.DONE not in ALLOWED[event] for event in AMBIGUOUS)
