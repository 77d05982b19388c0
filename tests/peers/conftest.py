"""The peers' tests use the black-box fixtures."""

from __future__ import annotations

from tests.blackbox.conftest import destination, new_gateway, slow_disk

__all__ = ["destination", "new_gateway", "slow_disk"]
