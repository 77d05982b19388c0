"""The files that a configuration names: there, readable, and not open to everybody. Contents are never read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from gateway.model.errors import Issue
from gateway.settings.configuration import name_of
from gateway.settings.fields import SecretReference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["check_files"]

#: References that are public by nature: certificates. Everything else is a secret.
_PUBLIC: Final = frozenset({"cert", "ca", "client_ca", "client_cert", "ca_file"})
_GROUP_OR_WORLD: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_files(
    path: Path,
    tables: Mapping[str, Any],
    sources: Sequence[BaseModel],
    sinks: Sequence[BaseModel],
    credentials_directory: Path | None,
) -> list[Issue]:
    """Every problem of the files and directories that those tables name, as seen by the account that asks."""
    return [
        *_configuration(path),
        *_state_dir(tables),
        *_key(tables, credentials_directory),
        *(issue for source in sources for issue in _references(source, f"source[{name_of(source)}]", credentials_directory)),
        *(issue for sink in sinks for issue in _references(sink, f"sink[{name_of(sink)}]", credentials_directory)),
        *(issue for sink in sinks for issue in _file_sink(sink)),
    ]


def _configuration(path: Path) -> Iterator[Issue]:
    if _mode(path) & stat.S_IWOTH:
        yield Issue(str(path), "can be changed by every account", f"chmod o-w {path}")


def _state_dir(tables: Mapping[str, Any]) -> Iterator[Issue]:
    if (gateway := tables.get("gateway")) is None:
        return
    place: Path = gateway.state_dir
    if not place.exists():
        yield from _can_be_made(place, "gateway.state_dir")
    elif not place.is_dir():
        yield Issue("gateway.state_dir", "is not a directory", "name a directory, or a path that does not exist yet")
    elif not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        yield Issue("gateway.state_dir", "cannot be used by this account", "run as the account of the gateway, or change its owner")
    elif _mode(place) & _OTHERS_WRITE:
        yield Issue("gateway.state_dir", "can be written by other accounts", f"chmod 700 {place}")


def _can_be_made(place: Path, path: str) -> Iterator[Issue]:
    above = next((folder for folder in place.parents if folder.exists()), Path("/"))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        yield Issue(path, "does not exist and cannot be made by this account", f"make it, or run as an account that may write in {above}")


def _key(tables: Mapping[str, Any], credentials_directory: Path | None) -> Iterator[Issue]:
    if (keys := tables.get("keys")) is None:
        return
    if keys.provider == "file":
        missing = "put the site's key there: a gateway that has run before needs the very same one (`edge-gateway init` makes a new one)"
        yield from _secret("keys.path", keys.path, missing)
    else:
        yield from _credential("keys.name", keys.name, credentials_directory)


def _references(table: BaseModel, place: str, credentials_directory: Path | None) -> Iterator[Issue]:
    for name in type(table).model_fields:
        value = getattr(table, name)
        path = f"{place}.{name}"
        if isinstance(value, SecretReference):
            yield from _reference(path, value, credentials_directory, public=name in _PUBLIC)
        elif isinstance(value, BaseModel):
            yield from _references(value, path, credentials_directory)
        elif isinstance(value, Path) and name.endswith("_file"):
            yield from _readable(path, value, "check the path; it is relative to the configuration file")


def _reference(path: str, reference: SecretReference, credentials_directory: Path | None, *, public: bool) -> Iterator[Issue]:
    if reference.credential is not None:
        yield from _credential(f"{path}.credential", reference.credential, credentials_directory)
    elif reference.file is not None:
        check = _readable if public else _secret
        yield from check(f"{path}.file", reference.file, "check the path; it is relative to the configuration file")


def _credential(path: str, name: str, directory: Path | None) -> Iterator[Issue]:
    if directory is None:
        fix = "nothing to do where the unit has LoadCredentialEncrypted= for it; check inside the unit to be sure"
        yield Issue(path, "can only be checked where systemd provides credentials", fix, fatal=False)
    else:
        yield from _readable(path, directory / name, "add LoadCredentialEncrypted= for it to the unit")


def _secret(path: str, file: Path, missing: str) -> Iterator[Issue]:
    problems = list(_readable(path, file, missing))
    yield from problems
    if not problems and _mode(file) & _GROUP_OR_WORLD:
        yield Issue(path, "can be read by other accounts", f"chmod 600 {file}")


def _readable(path: str, file: Path, missing: str) -> Iterator[Issue]:
    if not os.path.lexists(file):
        yield Issue(path, "the file does not exist", missing)
    elif not file.is_file():
        yield Issue(path, "not a file", "name a file")
    elif not os.access(file, os.R_OK):
        yield Issue(path, "the file cannot be read by this account", "run as the account of the gateway, or change its owner")
    elif file.stat().st_size == 0:
        yield Issue(path, "the file is empty", missing)


def _file_sink(sink: BaseModel) -> Iterator[Issue]:
    path = getattr(sink, "path", None)
    if getattr(sink, "type", "") != "file" or not isinstance(path, Path):
        return
    folder = path if path.is_dir() else path.parent
    if not folder.exists():
        yield from _can_be_made(folder, f"sink[{name_of(sink)}].path")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Issue(
            f"sink[{name_of(sink)}].path", "cannot be written by this account", "run as the account of the gateway, or choose another place"
        )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
