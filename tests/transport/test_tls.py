"""Contexts made from files: TLS 1.2 or newer, always verified, and every mistake in the files is named with its fix."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.model.errors import ConfigurationError, TransientError
from gateway.transport.tcp import connect
from gateway.transport.tcp_listener import ListenerLimits
from gateway.transport.tls import ClientTls, client_context, server_context
from tests.transport.listening import listening, raw, until

if TYPE_CHECKING:
    from pathlib import Path


class Files:
    """A CA, a server certificate, a client certificate, and things that are none of these."""

    def __init__(self, place: Path) -> None:
        self.authority = trustme.CA()
        self.place = place
        self.ca = self._write("ca.pem", self.authority.cert_pem.bytes())
        self.cert, self.key = self._issue("server", "localhost", "127.0.0.1")
        self.client_cert, self.client_key = self._issue("client", "monitor.example")
        self.junk = self._write("junk.pem", b"-----BEGIN NONSENSE-----\n")
        self.missing = place / "missing.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        secret = serialization.BestAvailableEncryption(b"secret")
        self.locked_key = self._write("locked.pem", key.private_bytes(serialization.Encoding.PEM, form, secret))

    def _write(self, name: str, content: bytes) -> Path:
        (self.place / name).write_bytes(content)
        return self.place / name

    def _issue(self, label: str, *names: str) -> tuple[Path, Path]:
        issued = self.authority.issue_cert(*names)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        return self._write(f"{label}.pem", chain), self._write(f"{label}-key.pem", issued.private_key_pem.bytes())


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_bytes_travel_over_tls_both_ways(files: Files) -> None:
    async with listening(echo=True, tls=server_context(files.cert, files.key)) as door:
        link = await connect("127.0.0.1", door.port, client_context(files.ca), 5.0)
        await link.send(b"hello")
        assert await link.receive(5.0) == b"hello"
        door.sessions[0].link.close("done")
        assert await link.receive(5.0) == b""
        await link.close()
        await until(lambda: door.sessions[0].calls[-1:] == ["lost"])


@pytest.mark.parametrize("name", ["other.example", ""])
async def test_a_certificate_for_another_name_or_of_another_authority_is_refused(files: Files, name: str, tmp_path: Path) -> None:
    async with listening(tls=server_context(files.cert, files.key)) as door:
        if name:
            trusted = client_context(files.ca, server_name=name)
        else:
            trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
            trusted = client_context(tmp_path / "other.pem")
        with pytest.raises(TransientError) as caught:
            await connect("127.0.0.1", door.port, trusted, 5.0)
        assert caught.value.code == "tls-failed"
        assert "certificate" in caught.value.hint
        await until(lambda: door.turned_away)


async def test_mutual_tls_lets_in_who_has_a_certificate_of_the_authority(files: Files) -> None:
    async with listening(echo=True, tls=server_context(files.cert, files.key, files.ca)) as door:
        link = await connect("127.0.0.1", door.port, client_context(files.ca, files.client_cert, files.client_key, "localhost"), 5.0)
        await link.send(b"x")
        assert await link.receive(5.0) == b"x"
        await link.close()
        without = await connect("127.0.0.1", door.port, client_context(files.ca), 5.0)  # TLS 1.3 tells the client afterwards
        assert await without.receive(5.0) == b""
        await without.close()
        assert len(door.sessions) == 1


async def test_an_old_protocol_version_is_refused(files: Files) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with listening(tls=server_context(files.cert, files.key)) as door:
        with pytest.raises(TransientError) as caught:
            await connect("127.0.0.1", door.port, ClientTls(old), 5.0)
        assert caught.value.code == "tls-failed"


async def test_a_handshake_that_does_not_go_on_is_ended(files: Files) -> None:
    limits = ListenerLimits(handshake_timeout_s=0.1)
    async with listening(limits, tls=server_context(files.cert, files.key)) as door, raw(door.port) as (reader, _):
        assert await reader.read() == b""
        assert not door.sessions
        await until(lambda: door.listener.connections == 0)


def test_contexts_allow_neither_old_versions_nor_weak_ciphers_nor_compression(files: Files) -> None:
    for context in (server_context(files.cert, files.key), client_context(files.ca).context):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert all("GCM" in cipher["name"] or "POLY1305" in cipher["name"] for cipher in context.get_ciphers())
    client = client_context(files.ca, server_name="gateway.example")
    assert client.context.check_hostname
    assert client.context.verify_mode == ssl.CERT_REQUIRED
    assert client.server_name == "gateway.example"


def test_without_a_ca_the_systems_authorities_count() -> None:
    assert client_context().context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "wrong"),
    [
        ("missing", "key", None, ["tls.cert"]),
        ("missing", "missing", "missing", ["tls.cert", "tls.key", "tls.client_ca"]),
        ("junk", "key", None, ["tls.cert"]),
        ("cert", "junk", None, ["tls.key"]),
        ("cert", "client_key", None, ["tls.key"]),
        ("cert", "locked_key", None, ["tls.key"]),
        ("cert", "key", "junk", ["tls.client_ca"]),
        ("key", "key", None, ["tls.cert"]),
        ("place", "key", None, ["tls.cert"]),
    ],
)
def test_every_unusable_file_is_named_with_a_reason_and_a_fix(
    files: Files, cert: str, key: str, client_ca: str | None, wrong: list[str]
) -> None:
    chosen: list[Path] = [getattr(files, name) for name in (cert, key)]
    authority: Path | None = getattr(files, client_ca) if client_ca else None
    with pytest.raises(ConfigurationError) as caught:
        server_context(chosen[0], chosen[1], authority)
    assert [issue.path for issue in caught.value.issues] == wrong
    assert all(issue.reason and issue.fix for issue in caught.value.issues)


def test_a_client_certificate_without_its_key_is_named(files: Files) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_context(files.ca, files.client_cert, path="sink.tls")
    assert [issue.path for issue in caught.value.issues] == ["sink.tls.key"]
