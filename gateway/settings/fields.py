"""Field types that every table of the configuration shares; the kinds of ``source`` and ``sink`` build on them too.

No validator here (or in a kind) may quote the value it was given: texts come from ``wrong(reason, fix)`` alone. A field
that names a file has the type ``Path``: ``load`` makes every relative one absolute against the configuration file.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "TABLE",
    "Bytes",
    "ClientTls",
    "Count",
    "Flag",
    "ListenAddress",
    "ListenField",
    "Name",
    "NetworkField",
    "Reference",
    "Seconds",
    "SecretReference",
    "ServerTls",
    "is_loopback",
    "wrong",
]

#: ``model_config`` of every table: unknown keys are errors, nothing changes after loading, no value is ever quoted.
TABLE = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_REFERENCE_FORM = 'write { file = "path" } or { credential = "name" }'
_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]{1,255}")

#: A name that becomes a metric label, a part of event ids and of lanes.
Name = Annotated[str, StringConstraints(strict=True, pattern=_NAME)]
Flag = StrictBool
Count = Annotated[StrictInt, Field(ge=1)]
Bytes = Annotated[StrictInt, Field(ge=0)]


def wrong(reason: str, fix: str) -> PydanticCustomError:
    """The error a validator raises: our own words, never the value."""
    return PydanticCustomError("wrong", "{reason}", {"reason": reason, "fix": fix})


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("not a number of seconds", "write a number without quotes, such as 5 or 0.5")
    return value


#: A duration in seconds, above 0; whole or broken, never text.
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where something listens. ``port`` 0 = any free one (tests)."""

    host: str
    port: int

    def __str__(self) -> str:
        """The text form, brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> ListenAddress | None:
        """``host:port`` or ``[ipv6]:port``; None where it is neither."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            return None
        if bracketed:
            return cls(host, int(port)) if _is_ipv6(host) else None
        return cls(host, int(port)) if _HOST.fullmatch(host) else None


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(text), ipaddress.IPv6Address)
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether that host (name or address) never leaves this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(value: object) -> ListenAddress:
    if isinstance(value, ListenAddress):
        return value
    if isinstance(value, str) and (address := ListenAddress.parse(value)):
        return address
    raise wrong("not an address", 'write host:port in quotes, such as "127.0.0.1:2575" or "[::1]:2575"')


ListenField = Annotated[ListenAddress, BeforeValidator(_listen), PlainSerializer(str)]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(value: object) -> Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        if isinstance(value, str):
            return ipaddress.ip_network(value, strict=True)
    except ValueError:
        pass
    raise wrong("not a network", 'write CIDR in quotes with no bits set behind the mask, such as "10.1.2.0/24"')


NetworkField = Annotated[Network, BeforeValidator(_network), PlainSerializer(str)]


class SecretReference(BaseModel):
    """``{ file = "…" }`` or ``{ credential = "…" }``: where a secret lies; never the secret itself."""

    model_config = TABLE

    file: Path | None = None
    """A file, relative to the configuration file."""
    credential: str | None = None
    """The name of a systemd credential, read from ``$CREDENTIALS_DIRECTORY``."""

    @model_validator(mode="before")
    @classmethod
    def _never_a_value(cls, data: Any) -> Any:
        if isinstance(data, str):
            raise wrong(
                "a secret is a reference, never a value", 'write { file = "path" } or { credential = "name" } and keep the secret there'
            )
        return data

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretReference:
        if (self.file is None) == (self.credential is None):
            raise wrong("needs file or credential, not both", _REFERENCE_FORM)
        if self.credential is not None and (not _CREDENTIAL.fullmatch(self.credential) or self.credential in (".", "..")):
            raise wrong("not the name of a credential", "use letters, digits, dot, dash and underscore")
        return self

    def place(self, credentials_directory: Path | None) -> Path | None:
        """The file to read; None where a credential is meant and systemd passed none."""
        if self.file is not None:
            return self.file
        if self.credential is None or credentials_directory is None:
            return None
        return credentials_directory / self.credential


#: Certificates use the same form as secrets, so that keys and certificates look alike in the file.
Reference = SecretReference


class ServerTls(BaseModel):
    """``tls`` of a listener: TLS 1.2 or newer; with ``client_ca`` a sender must show a certificate of that CA."""

    model_config = TABLE

    cert: Reference
    key: Reference
    client_ca: Reference | None = None


class ClientTls(BaseModel):
    """``tls`` of a destination: TLS 1.2 or newer, always verified; ``ca`` replaces the system's authorities."""

    model_config = TABLE

    ca: Reference | None = None
    cert: Reference | None = None
    key: Reference | None = None
    server_name: str | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> ClientTls:
        if (self.cert is None) != (self.key is None):
            raise wrong("cert and key belong together", "give both or neither")
        return self
