"""From a configuration to an open journal, in the one order that never harms what lies on the disk.

key -> keyring -> lock -> database. While the key is missing or wrong, nothing in the state directory is created, changed
or removed; a lock file that exists already is held, so that two daemons never wait for the same key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.journal.interface import JournalPlace, JournalServices, RouteRule
from gateway.journal.journal import Journal
from gateway.journal.key_provider import CredentialProvider, FileProvider, KeyProvider
from gateway.journal.keyring import KeyringState, OpenKeyring, create_keyring, keyring_state, open_keyring
from gateway.journal.lockfile import StateLock, take_lock
from gateway.model.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.model.clock import Randomness
    from gateway.settings.configuration import Configuration

_LOCK_PATIENCE_S: Final = 3.0
_LOCK_EVERY_S: Final = 0.05

__all__ = ["Unlocking", "key_provider", "place_of", "rules_of"]


def key_provider(configuration: Configuration, environ: Mapping[str, str]) -> KeyProvider:
    """The provider that ``[keys]`` names."""
    keys = configuration.keys
    if keys.provider == "file":
        return FileProvider(keys.path)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return CredentialProvider(Path(directory) if directory else None, keys.name)


def place_of(configuration: Configuration) -> JournalPlace:
    """Where the journal lies and what it may use."""
    table = configuration.journal
    return JournalPlace(
        state_dir=configuration.gateway.state_dir,
        quota_bytes=table.quota_bytes,
        reserve_bytes=table.reserve_bytes,
        dedupe_keys=table.dedupe_keys,
        retain_days=table.retain_days,
    )


def rules_of(configuration: Configuration) -> tuple[RouteRule, ...]:
    """Which sources each route reads."""
    return tuple(RouteRule(route.name, None if route.sources is None else frozenset(route.sources)) for route in configuration.routes)


@dataclass(slots=True)
class Unlocking:
    """Tries to open the journal; keeps the lock once it has it."""

    configuration: Configuration
    provider: KeyProvider
    randomness: Randomness
    lock: StateLock | None = None
    keys: OpenKeyring | None = None

    async def attempt(self, services: JournalServices) -> Journal:
        """One try.

        Raises:
            LockedError: no usable key now; nothing was changed.
            UnavailableError: another daemon works on this state directory.
            StorageError, CapacityError: the disk refused; try again later.
        """
        place = place_of(self.configuration)
        try:
            kek = self.provider.read()
            fresh = keyring_state(place.state_dir) is KeyringState.FRESH
            keys = None if fresh else open_keyring(place.state_dir, kek)
        finally:
            await self._hold(create=False)
        await self._hold(create=True)
        if keys is None:
            keys = create_keyring(place.state_dir, kek, self.randomness)
        self.keys = keys
        return await Journal.open(place, keys, rules_of(self.configuration), services)

    async def _hold(self, *, create: bool) -> None:
        """Take the lock; a command that reads a stopped gateway holds it for a moment, so look again for a while."""
        tries = int(_LOCK_PATIENCE_S / _LOCK_EVERY_S)
        while self.lock is None:
            try:
                self.lock = take_lock(self.configuration.gateway.state_dir, create=create)
            except UnavailableError:
                tries -= 1
                if tries <= 0:
                    raise
                await asyncio.sleep(_LOCK_EVERY_S)
            else:
                return

    def release(self) -> None:
        """Give the lock up; the last thing a daemon does."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None
