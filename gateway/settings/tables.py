"""The tables that every configuration may have; the tables of source and sink kinds lie beside their code."""

from __future__ import annotations

import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gateway.model.limits import DEDUPE_KEYS
from gateway.settings.fields import TABLE, Bytes, Count, ListenAddress, Name, is_loopback, wrong

__all__ = ["EVERY_SOURCE", "TABLES", "AdminTable", "GatewayTable", "JournalTable", "KeysTable", "RouteTable"]

#: ``from = "*"``
EVERY_SOURCE: Final = "*"
_GATEWAY_ID: Final = re.compile(r"[a-z0-9-]{1,63}")
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}")


def _gateway_id(value: object) -> str:
    if isinstance(value, str) and _GATEWAY_ID.fullmatch(value):
        return value
    raise wrong("not a gateway id", 'write 1 to 63 of a-z, 0-9 and "-" in quotes; it becomes a part of every event id')


def _time_zone(value: object) -> str:
    try:
        if isinstance(value, str):
            zoneinfo.ZoneInfo(value)
            return value
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise wrong("not a time zone known here", 'write an IANA name in quotes, such as "Europe/Berlin" (Debian package tzdata)')


class GatewayTable(BaseModel):
    """``[gateway]``."""

    model_config = TABLE

    id: Annotated[str, BeforeValidator(_gateway_id)]
    """1 to 63 of ``a-z 0-9 -``; part of every event id, so it never changes."""
    state_dir: Path = Path("state")
    """Where the journal lives; relative to the configuration file."""
    time_zone: Annotated[str, BeforeValidator(_time_zone)] = "UTC"
    """For senders that give no UTC offset (IANA name)."""


class KeysTable(BaseModel):
    """``[keys]``: where the key that protects the journal comes from."""

    model_config = TABLE

    provider: Literal["file", "systemd-credential"] = "file"
    """``file`` or ``systemd-credential``."""
    path: Path = Path("keys/kek")
    """``file``: the key file, outside ``state_dir``."""
    name: str = "gw-kek"
    """``systemd-credential``: the name in ``LoadCredentialEncrypted=``."""

    @model_validator(mode="before")
    @classmethod
    def _fitting(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        provider = data.get("provider", "file")
        if provider == "pkcs11":
            raise wrong('provider "pkcs11" is not in this version', 'use "file" or "systemd-credential"')
        if provider == "file" and "name" in data:
            raise wrong('"name" is for provider "systemd-credential"', 'remove it, or set provider = "systemd-credential"')
        if provider == "systemd-credential" and "path" in data:
            raise wrong('"path" is for provider "file"', 'remove it, or set provider = "file"')
        return data

    @model_validator(mode="after")
    def _credential(self) -> KeysTable:
        if not _CREDENTIAL.fullmatch(self.name) or self.name in {".", ".."}:
            raise wrong("name is not the name of a credential", "use letters, digits, dot, dash and underscore")
        return self


def _admin_listen(value: object) -> ListenAddress | None:
    if value in ("", None):
        return None
    address = value if isinstance(value, ListenAddress) else ListenAddress.parse(value) if isinstance(value, str) else None
    if address is None:
        raise wrong("not an address", 'write host:port in quotes, such as "127.0.0.1:8686"; "" serves no HTTP at all')
    if not is_loopback(address.host):
        raise wrong(
            "not a loopback address, and nothing asks for a password there",
            'write "127.0.0.1:8686" and let a proxy with authentication publish it',
        )
    return address


class AdminTable(BaseModel):
    """``[admin]``: health, readiness and metrics."""

    model_config = TABLE

    listen: Annotated[ListenAddress | None, BeforeValidator(_admin_listen)] = ListenAddress("127.0.0.1", 8686)
    """Loopback ``host:port`` of ``/healthz``, ``/readyz`` and ``/metrics``; empty = none."""


class JournalTable(BaseModel):
    """``[journal]``; 0 bytes = scaled to the file system."""

    model_config = TABLE

    quota_bytes: Bytes = 0
    """Limit of the journal's files; 0 = scaled to the file system."""
    reserve_bytes: Bytes = 0
    """Kept free so that deliveries can still be recorded on a full disk; 0 = scaled."""
    dedupe_keys: Count = DEDUPE_KEYS
    """How many control ids are remembered to recognise a resend."""
    retain_days: Bytes = 7
    """How long delivered messages stay while there is room."""

    @model_validator(mode="after")
    def _room(self) -> JournalTable:
        if self.quota_bytes and self.reserve_bytes >= self.quota_bytes:
            raise wrong("reserve_bytes leaves nothing of quota_bytes", "make it at most half of quota_bytes, or 0")
        if 0 < self.quota_bytes < 1_048_576:
            raise wrong("quota_bytes is below 1 MiB", "give the journal at least 1048576 bytes, or 0 = scaled to the file system")
        return self


def _from(value: object) -> tuple[str, ...] | None:
    if value == EVERY_SOURCE:
        return None
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    if value is None:
        return None
    raise wrong("not a list of source names", 'write from = ["name", …] with at least one name, or from = "*"')


class RouteTable(BaseModel):
    """``[[route]]``: which sources go to which sink, in which form."""

    model_config = TABLE | ConfigDict(validate_by_alias=True, validate_by_name=False)

    name: Name
    """Unique among routes; part of lane names, so it does not change."""
    sources: Annotated[tuple[str, ...] | None, BeforeValidator(_from)] = Field(alias="from")
    """``from``: names of sources, or ``"*"`` (None here)."""
    sink: Name = Field(alias="to")
    """``to``: the name of a sink."""
    form: Literal["raw"] = Field(alias="as", default="raw")
    """``as``: ``raw`` = the wire bytes, untouched."""
    on_reject: Literal["continue", "stop"] = "continue"
    """What a rejected message does to those behind it: ``continue`` or ``stop``."""

    @model_validator(mode="before")
    @classmethod
    def _forms(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("as") in ("hl7", "fhir"):
            raise wrong("this form is not in this version", 'write as = "raw"')
        return data


#: table name -> model; ``source``, ``sink`` and ``route`` are arrays.
TABLES: Final[dict[str, type[BaseModel]]] = {"gateway": GatewayTable, "keys": KeysTable, "admin": AdminTable, "journal": JournalTable}
