"""Kinds as small as they can be: settings must work for kinds that it has never heard of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from gateway.model.errors import Issue
from gateway.settings.fields import (
    TABLE,
    ClientTls,
    Count,
    Flag,
    ListenField,
    Name,
    NetworkField,
    Reference,
    Seconds,
    SecretReference,
    ServerTls,
)
from gateway.settings.kinds import Kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KINDS", "FileTable", "HttpsTable", "MllpTable"]


class Sender(BaseModel):
    model_config = TABLE
    app: Name
    facility: Name | None = None


class MllpTable(BaseModel):
    model_config = TABLE
    name: Name
    type: Literal["mllp"]
    listen: ListenField
    ack: Literal["original", "enhanced", "msh"] = "msh"
    allow: tuple[NetworkField, ...] = ()
    senders: tuple[Sender, ...] = ()
    max_connections: Count = 256
    idle_timeout_s: Seconds = 600
    tls: ServerTls | None = None
    kind: Literal["adt", "result"] | None = Field(alias="class", default=None)

    def lint(self) -> Iterator[Issue]:
        if self.max_connections > 10_000:
            yield Issue("max_connections", "more than this machine has", "lower it", fatal=False)


class Retry(BaseModel):
    model_config = TABLE
    first_ms: Count = 200
    cap_ms: Count = 5000


class HttpsTable(BaseModel):
    model_config = TABLE
    name: Name
    type: Literal["https"]
    url: str
    insecure: Flag = False
    retry: Retry = Retry()
    token: SecretReference | None = None
    tls: ClientTls | None = None
    ca_file: Path | None = None
    client_cert: Reference | None = None
    proxy: str | None = None
    note: str = ""

    @field_validator("note")
    @classmethod
    def _careless(cls, value: str) -> str:
        if value.startswith("bad"):
            raise ValueError(f"note {value} is not nice")
        if value == "own words":
            raise ValueError("a note needs more sense")
        return value

    @model_validator(mode="after")
    def _whole(self) -> HttpsTable:
        if self.retry.cap_ms < self.retry.first_ms:
            raise ValueError("cap_ms is less than first_ms")
        return self


class FileTable(BaseModel):
    model_config = TABLE
    name: Name
    type: Literal["file"]
    path: Path


KINDS = Kinds({"mllp": MllpTable}, {"https": HttpsTable, "file": FileTable})
