"""``[[sink]] type = "https"``: batches of CloudEvents to an HTTP endpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from gateway.model.errors import Issue
from gateway.settings.fields import TABLE, ClientTls, Flag, Name, Reference, Seconds, SecretReference

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BatchSettings", "Compression", "HttpsSettings", "RetrySettings"]

_TEXT = ConfigDict(str_strip_whitespace=True)
_Milliseconds = Annotated[StrictInt, Field(ge=0, le=3_600_000)]


class Compression(StrEnum):
    """``Content-Encoding`` of the requests."""

    GZIP = "gzip"
    ZSTD = "zstd"
    NONE = "none"


class BatchSettings(BaseModel):
    """How much one request holds."""

    model_config = TABLE

    max_messages: Annotated[StrictInt, Field(ge=1, le=2000)] = 500
    """At most so many messages."""
    max_bytes: Annotated[StrictInt, Field(ge=1024, le=8_388_608)] = 262_144
    """At most so many bytes of messages; a single larger message travels alone."""
    linger_ms: Annotated[StrictInt, Field(ge=0, le=60_000)] = 200
    """An incomplete batch waits so long for more."""


class RetrySettings(BaseModel):
    """Pauses after failures: random between 0 and a ceiling that doubles."""

    model_config = TABLE

    first_ms: Annotated[StrictInt, Field(ge=1, le=60_000)] = 200
    """The first ceiling."""
    cap_ms: Annotated[StrictInt, Field(ge=1, le=600_000)] = 5000
    """The last ceiling."""

    def lint(self) -> Iterator[Issue]:
        """A cap below the start."""
        if self.cap_ms < self.first_ms:
            yield Issue("retry.cap_ms", "less than first_ms", "make it at least as large as first_ms")


class HttpsSettings(BaseModel):
    """POST of CloudEvents batches to an HTTP endpoint, with a receipt per event."""

    model_config = TABLE | _TEXT

    name: Name
    type: Literal["https"]
    url: str
    """Where to POST; http:// only to this machine, or with insecure = true."""
    insecure: Flag = False
    """Allow http:// to another machine: patient data travels unencrypted."""
    compression: Compression = Compression.GZIP
    """"gzip", "zstd" or "none"."""
    batch: BatchSettings = BatchSettings()
    """How much one request holds."""
    retry: RetrySettings = RetrySettings()
    """Pauses after failures."""
    connect_timeout_s: Seconds = 5
    """For name, TCP and TLS together."""
    answer_timeout_s: Seconds = 10
    """From the connection to the last byte of the answer; past it the batch is in doubt and sent again."""
    token: SecretReference | None = None
    """A bearer token; read again when the file changes and after a 401."""
    tls: ClientTls | None = None
    """CA, client certificate and key, expected name."""
    ca_file: Path | None = None
    """A PEM file with the authorities to trust instead of the system's; the same as tls.ca."""
    client_cert: Reference | None = None
    """A PEM file with our certificate, and our key unless client_key names it; the same as tls.cert."""
    client_key: SecretReference | None = None
    """A PEM file with our key; the same as tls.key."""
    server_name: str | None = None
    """The name that the certificate must have, where it differs from the host in url; the same as tls.server_name."""
    proxy: str | None = None
    """An HTTP proxy, such as "http://proxy:3128"; without it none is used, whatever the environment says."""

    def lint(self) -> Iterator[Issue]:
        """What no single field shows."""
        yield from self.retry.lint()
        if self.tls is not None and (self.ca_file or self.client_cert or self.client_key or self.server_name):
            yield Issue("tls", "given twice, with ca_file, client_cert, client_key or server_name", "keep one of the two forms")
        if self.client_key is not None and self.client_cert is None:
            yield Issue("client_key", "a key without its certificate", "name the certificate in client_cert")
        if self.url.startswith("http:") and (self.tls is not None or self.ca_file or self.client_cert or self.server_name):
            yield Issue("url", "http:// uses none of the TLS settings", "write https://", fatal=False)
