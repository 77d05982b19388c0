"""``[[source]] type = "mllp"``: an HL7 v2 listener."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, StrictInt, StringConstraints, model_validator

from gateway.codec.acknowledgement import AckMode
from gateway.model.errors import Issue
from gateway.model.limits import DISCARD_MAX_BYTES, FRAME_MAX_BYTES
from gateway.model.traffic import TrafficClass
from gateway.settings.fields import TABLE, Count, ListenField, Name, NetworkField, Seconds, ServerTls, is_loopback, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AllowedSender", "MllpSettings", "WhenUnable"]

#: What a component of MSH-3 or MSH-4 can hold: neither control characters nor the usual delimiters.
_Part = Annotated[str, StringConstraints(strict=True, pattern=r"^[^\x00-\x1f|^~\\&]{1,199}$")]
_MessageBytes = Annotated[StrictInt, Field(ge=1024, le=DISCARD_MAX_BYTES)]


class WhenUnable(StrEnum):
    """What a sender gets while its message cannot be stored; senders differ in what makes them send again."""

    NAK = "nak"  #: AE or CE with error 207
    CLOSE = "close"  #: no answer, the connection ends
    SILENT = "silent"  #: no answer, the connection stays


def _traffic(value: object) -> object:
    if isinstance(value, TrafficClass):
        return value
    labels = [member.label for member in TrafficClass]
    if isinstance(value, str) and value in labels:
        return TrafficClass.from_label(value)
    raise wrong("not a traffic class", "write one of " + ", ".join(labels))


_TrafficField = Annotated[TrafficClass, BeforeValidator(_traffic), PlainSerializer(lambda member: member.label)]


class AllowedSender(BaseModel):
    """One sending system. Compared with the whole field or its first component, byte for byte, as UTF-8."""

    model_config = TABLE

    app: _Part | None = None
    """MSH-3; left out = any."""
    facility: _Part | None = None
    """MSH-4; left out = any."""

    @model_validator(mode="after")
    def _says_something(self) -> AllowedSender:
        if self.app is None and self.facility is None:
            raise wrong("names neither app nor facility", 'write { app = "…", facility = "…" } or leave the list empty to allow all')
        return self


class MllpSettings(BaseModel):
    """A listener for HL7 v2 over MLLP: every message is committed before it is acknowledged."""

    model_config = TABLE

    name: Name
    type: Literal["mllp"]
    listen: ListenField
    """Address and port, such as "127.0.0.1:2575"."""
    max_message_bytes: _MessageBytes = FRAME_MAX_BYTES
    """Larger frames are refused (AR, error 104), while others are served."""
    ack: AckMode = AckMode.MSH
    """"original": AA/AE/AR; "enhanced": CA/CE/CR; "msh": as MSH-15 and MSH-16 of each message ask."""
    when_unable: WhenUnable = WhenUnable.NAK
    """While nothing can be stored: "nak" answers AE/CE with error 207, "close" closes, "silent" does not answer."""
    allow: tuple[NetworkField, ...] = ()
    """Networks that may connect, in CIDR form; empty = any."""
    senders: tuple[AllowedSender, ...] = ()
    """Sending systems (MSH-3, MSH-4) that may send; empty = any. Others get AR or CR with error 103."""
    max_connections: Count = 256
    max_connections_per_address: Count = 128
    idle_timeout_s: Seconds = 600
    """A connection that is silent for so long is closed, unless it waits for our answer."""
    frame_timeout_s: Seconds = 60
    """A frame must be complete so long after its first byte."""
    tls: ServerTls | None = None
    """TLS 1.2 or newer; with client_ca senders must show a certificate of that CA."""
    traffic: _TrafficField | None = Field(default=None, alias="class")
    """The traffic class of all messages of this source, instead of the one that follows from their types."""

    def lint(self) -> Iterator[Issue]:
        """What is allowed, but deserves a look."""
        if not is_loopback(self.listen.host) and not self.allow and not self.senders and (self.tls is None or not self.tls.client_ca):
            yield Issue(
                "allow",
                "anybody who reaches the port may send",
                'list the senders\' networks, such as allow = ["10.1.2.0/24"], or use tls with client_ca',
                fatal=False,
            )
        if self.max_connections_per_address > self.max_connections:
            yield Issue(
                "max_connections_per_address",
                "larger than max_connections, so it limits nothing",
                "lower it, or raise max_connections",
                fatal=False,
            )
