"""The table of an MLLP source: defaults of the design, every mistake named, no value ever quoted."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.codec.acknowledgement import AckMode
from gateway.model.traffic import TrafficClass
from gateway.source.mllp_settings import MllpSettings, WhenUnable
from tests.source.sending import settings

MINIMAL = {"name": "adt", "type": "mllp", "listen": "127.0.0.1:2575"}


def test_only_name_type_and_listen_are_required_and_the_defaults_are_those_of_the_contract() -> None:
    made = MllpSettings.model_validate(MINIMAL)
    assert (made.listen.host, made.listen.port) == ("127.0.0.1", 2575)
    assert made.max_message_bytes == 16_777_216
    assert (made.ack, made.when_unable) == (AckMode.MSH, WhenUnable.NAK)
    assert (made.allow, made.senders) == ((), ())
    assert (made.max_connections, made.max_connections_per_address) == (256, 128)
    assert (made.idle_timeout_s, made.frame_timeout_s) == (600, 60)
    assert made.tls is None
    assert made.traffic is None


def test_everything_can_be_set_as_toml_writes_it() -> None:
    made = MllpSettings.model_validate(
        MINIMAL
        | {
            "ack": "enhanced",
            "when_unable": "close",
            "allow": ["10.1.2.0/24", "fd00::/8"],
            "senders": [{"app": "MON", "facility": "ICU"}, {"app": "Lab-1"}],
            "class": "vitals",
            "tls": {"cert": {"file": "cert.pem"}, "key": {"credential": "mllp-key"}},
        }
    )
    assert made.traffic is TrafficClass.VITALS
    assert [str(network) for network in made.allow] == ["10.1.2.0/24", "fd00::/8"]
    assert made.senders[1].facility is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"listen": "2575"}, "listen"),
        ({"ack": "always"}, "ack"),
        ({"when_unable": "drop"}, "when_unable"),
        ({"allow": ["10.1.2.3/24"]}, "allow"),
        ({"senders": [{}]}, "senders"),
        ({"senders": [{"app": "A|B"}]}, "senders"),
        ({"senders": [{"app": ""}]}, "senders"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"max_message_bytes": 10**9}, "max_message_bytes"),
        ({"max_connections": 0}, "max_connections"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"frame_timeout_s": "60"}, "frame_timeout_s"),
        ({"class": "urgent"}, "class"),
        ({"tls": {"cert": {"file": "c"}}}, "tls"),
        ({"timeout": 5}, "timeout"),
    ],
)
def test_a_mistake_is_named_by_its_place_and_its_value_is_not_quoted(change: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MllpSettings.model_validate(MINIMAL | change)
    assert {error["loc"][0] for error in caught.value.errors()} == {where}
    assert "10.1.2.3" not in str(caught.value)


def test_a_port_that_anybody_can_reach_is_worth_a_warning() -> None:
    open_to_all = settings(listen="0.0.0.0:2575")
    (issue,) = open_to_all.lint()
    assert (issue.path, issue.fatal) == ("allow", False)
    for change in ({"allow": ["10.0.0.0/8"]}, {"senders": [{"app": "A"}]}, {"listen": "127.0.0.1:1"}, {"listen": "localhost:1"}):
        assert not list(settings(**{"listen": "0.0.0.0:2575", **change}).lint())
    mutual = {"cert": {"file": "c"}, "key": {"file": "k"}, "client_ca": {"file": "a"}}
    assert not list(settings(listen="0.0.0.0:2575", tls=mutual).lint())


def test_a_limit_that_limits_nothing_is_worth_a_warning() -> None:
    assert [issue.path for issue in settings(max_connections=10).lint()] == ["max_connections_per_address"]
