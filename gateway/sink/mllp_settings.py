"""``[[sink]] type = "mllp"``: HL7 v2 to another system over MLLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, StrictInt, StringConstraints

from gateway.model.errors import Issue
from gateway.settings.fields import TABLE, ClientTls, Count, Flag, ListenField, Name, Seconds, is_loopback
from gateway.sink.https_settings import RetrySettings
from gateway.sink.mllp_replies import ALLOWED, RETRY_ERRORS, Action, ReplyEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MllpSinkSettings"]

_ErrorCode = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9]{1,4}$")]
_Text = Annotated[str, StringConstraints(strict=True, min_length=3, max_length=200)]


class MllpSinkSettings(BaseModel):
    """One connection, one message at a time: the next one goes when the reply to the one before is in."""

    model_config = TABLE

    name: Name
    type: Literal["mllp"]
    address: ListenField
    """Host and port of the destination, such as "10.1.2.3:2575"."""
    connect_timeout_s: Seconds = 5
    """For name, TCP and TLS together."""
    answer_timeout_s: Seconds = 30
    """For the reply; past it the connection is closed and the message sent again."""
    min_interval_ms: Annotated[StrictInt, Field(ge=0, le=3_600_000)] = 0
    """At least so long from one message to the next; some receivers need it."""
    persistent: Flag = True
    """Keep the connection; false connects for each message."""
    await_application_ack: Flag = False
    """A CA is not enough: wait for AA, AE or AR on the same connection."""
    application_timeout_s: Seconds = 60
    """How long after the CA."""
    accept_empty_msa2: Flag = False
    """The destination does not echo MSH-10: take a reply with an empty MSA-2 for ours."""
    mllp2: Flag = False
    """The destination answers with MLLP release 2 commit acknowledgements (06, 15)."""
    on_reply: Mapping[ReplyEvent, Action] = {}
    """What a reply does, where it differs from the table: { AE = "dead", timeout = "suspend" }."""
    suspend_after: Count = 10
    """So many AE or CE for one message suspend the destination."""
    suspend_s: Seconds = 60
    """A suspended destination is tried again so often."""
    retry_errors: tuple[_ErrorCode, ...] = RETRY_ERRORS
    """ERR-3 codes (table 0357) that make an AR or CR a reason to try again."""
    retry_texts: tuple[_Text, ...] = ()
    """Texts in MSA-3 that do the same, upper and lower case alike."""
    retry: RetrySettings = RetrySettings(first_ms=1000, cap_ms=60_000)
    """Pauses after failures."""
    tls: ClientTls | None = None
    """TLS with CA, client certificate and key, expected name."""
    insecure: Flag = False
    """Without tls to another machine: patient data travels unencrypted; true says that this is meant."""

    def lint(self) -> Iterator[Issue]:
        """What no single field shows."""
        yield from self.retry.lint()
        for event, action in self.on_reply.items():
            if action not in ALLOWED[event]:
                allowed = ", ".join(sorted(ALLOWED[event]))
                yield Issue("on_reply", f'"{action.value}" cannot be what "{event.value}" does', f"write one of {allowed}")
        if self.tls is None and not self.insecure and not is_loopback(self.address.host):
            yield Issue(
                "tls",
                "sends patient data unencrypted over the network",
                "use tls, or set insecure = true where the network is trusted",
                fatal=False,
            )
