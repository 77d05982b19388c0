"""``init``: a directory with a configuration that runs, and a key. Never overwrites anything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from gateway.journal.key_provider import write_new_kek
from gateway.model.errors import PermanentError, StorageError
from gateway.settings.problems import issues_of
from gateway.settings.tables import GatewayTable
from gateway.settings.template import template

if TYPE_CHECKING:
    from gateway.model.clock import Randomness
    from gateway.model.errors import Issue

__all__ = ["Initialised", "gateway_id_of", "host_time_zone", "initialise", "unfit"]

_FILE: Final = "gateway.toml"
_UNFIT: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was made. ``key_kept``: a key that lay there already was left alone."""

    configuration: Path
    key: Path
    key_kept: bool


def initialise(folder: Path, gateway_id: str, time_zone: str, randomness: Randomness) -> Initialised:
    """Make ``folder`` (0700) with ``gateway.toml``, ``keys/kek`` (0600) and ``out/``.

    The configuration is written last: where it exists, the rest does. Raises ``PermanentError`` where there is one already,
    ``StorageError`` where the disk refuses.
    """
    configuration, key = folder / _FILE, folder / "keys" / "kek"
    if os.path.lexists(configuration):
        raise PermanentError("already-initialised", f"{configuration} exists and is never overwritten; choose another directory")
    kept = os.path.lexists(key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "out").mkdir(mode=0o700, exist_ok=True)
        if not kept:
            write_new_kek(key, randomness)
        _write_new(configuration, template(gateway_id, time_zone).encode())
    except FileExistsError:
        raise PermanentError("in-the-way", f"something in {folder} is in the way; choose another directory") from None
    except OSError:
        raise StorageError("cannot-write", f"cannot write in {folder}; check its owner, its mode and the free space") from None
    return Initialised(configuration, key, kept)


def unfit(gateway_id: str, time_zone: str) -> tuple[Issue, ...]:
    """What a configuration with these two would be refused for."""
    table = {"id": gateway_id, "time_zone": time_zone}
    try:
        GatewayTable.model_validate(table)
    except ValidationError as error:
        return issues_of(error, GatewayTable, "gateway", table)
    return ()


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def gateway_id_of(folder: Path) -> str:
    """An id from the directory's name: ``/srv/Ward 3`` gives ``ward-3``."""
    plain = _UNFIT.sub("-", folder.absolute().name.lower()).strip("-")[:63].strip("-")
    return plain or "gateway"


def host_time_zone(link: Path = Path("/etc/localtime")) -> str:
    """The IANA name that this machine uses, ``UTC`` where it does not say."""
    try:
        _, found, name = str(link.readlink()).partition("zoneinfo/")
    except OSError:
        return "UTC"
    return name if found and re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name) and not name.startswith("Etc/") else "UTC"
