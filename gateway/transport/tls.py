"""TLS contexts from files: TLS 1.2 or newer, forward secrecy, authenticated ciphers, no compression, no renegotiation.

Every problem of the files is one ``Issue`` with the setting's path and the way to mend it; OpenSSL's own texts stay out.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.model.errors import ConfigurationError, Issue

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ClientTls", "ServerTls", "client_context", "server_context"]

#: What a listener needs for TLS.
ServerTls: TypeAlias = ssl.SSLContext

# TLS 1.2 suites; those of TLS 1.3 are all fit and not configurable here. CBC and static RSA are out: Lucky 13, no
# forward secrecy.
_CIPHERS_12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
_CERT_FIX: Final = "give a PEM file with the certificate, then its intermediates"
_KEY_FIX: Final = "give the PEM private key that belongs to the certificate, without a passphrase"
_CA_FIX: Final = "give a PEM file with at least one CA certificate"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What an outbound connection needs for TLS. ``server_name``: what the certificate must name; "" = the host connected to."""

    context: ssl.SSLContext
    server_name: str = ""


def server_context(cert: Path, key: Path, client_ca: Path | None = None, *, path: str = "tls") -> ServerTls:
    """The context of a listener; with ``client_ca`` only clients with a certificate of that CA get in (mutual TLS).

    Raises: ConfigurationError with an ``Issue`` for each file that cannot be used, below ``path``.
    """
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_SINGLE_ECDH_USE
    issues = _load_identity(context, cert, key, path)
    if client_ca is not None:
        issues += _load_authorities(context, client_ca, f"{path}.client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return _or_raise(context, issues)


def client_context(
    ca: Path | None = None, cert: Path | None = None, key: Path | None = None, server_name: str = "", *, path: str = "tls"
) -> ClientTls:
    """The context of an outbound connection. ``ca`` None = the system's authorities; it replaces them otherwise.

    The peer's certificate and its name are always checked; there is no setting to turn that off.
    Raises: ConfigurationError as ``server_context``.
    """
    context = _strict(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    issues: list[Issue] = []
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        issues += _load_authorities(context, ca, f"{path}.ca")
    if cert is not None and key is not None:
        issues += _load_identity(context, cert, key, path)
    elif cert is not None or key is not None:
        missing = "key" if key is None else "cert"
        issues.append(Issue(f"{path}.{missing}", "certificate and key only work together", "give both, or neither"))
    return ClientTls(_or_raise(context, issues), server_name)


def _strict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Rejected: VERIFY_X509_STRICT (a default from Python 3.13 on): private hospital CAs often lack key identifiers."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_12)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load_identity(context: ssl.SSLContext, cert: Path, key: Path, path: str) -> list[Issue]:
    issues = _unreadable(cert, f"{path}.cert", _CERT_FIX) + _unreadable(key, f"{path}.key", _KEY_FIX)
    if issues:
        return issues
    try:
        # The password callback keeps OpenSSL from asking on the terminal where the key has a passphrase.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return [Issue(f"{path}.key", "the key does not belong to the certificate", _KEY_FIX)]
        return [Issue(*_which_is_bad(cert, path))]
    except ValueError:  # an empty passphrase is not accepted for an encrypted key
        return [Issue(f"{path}.key", "the key has a passphrase", _KEY_FIX)]
    return []


def _which_is_bad(cert: Path, path: str) -> tuple[str, str, str]:
    """OpenSSL does not say which of the two files it could not read: ask for the certificate alone."""
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        probe.load_verify_locations(cert)
    except ssl.SSLError:
        return f"{path}.cert", "not a PEM certificate", _CERT_FIX
    return f"{path}.key", "not a usable PEM private key (or one with a passphrase)", _KEY_FIX


def _load_authorities(context: ssl.SSLContext, ca: Path, path: str) -> list[Issue]:
    if issues := _unreadable(ca, path, _CA_FIX):
        return issues
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        return [Issue(path, "not a PEM certificate", _CA_FIX)]
    return []


def _unreadable(file: Path, path: str, fix: str) -> list[Issue]:
    try:
        file.read_bytes()
    except FileNotFoundError:
        return [Issue(path, "the file does not exist", fix)]
    except PermissionError:
        return [Issue(path, "the file may not be read by this account", "give the daemon's account read access")]
    except OSError:
        return [Issue(path, "the file cannot be read", fix)]
    return []


def _or_raise(context: ssl.SSLContext, issues: list[Issue]) -> ssl.SSLContext:
    if issues:
        raise ConfigurationError(tuple(issues))
    return context
