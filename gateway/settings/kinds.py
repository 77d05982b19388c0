"""The kinds of sources and sinks that exist, as ``service`` hands them in: settings knows none of them by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

__all__ = ["Kinds"]


@dataclass(frozen=True, slots=True)
class Kinds:
    """``type`` of the TOML table -> its pydantic model (``name`` and ``type`` among its fields, unknown keys forbidden).

    A model may have a method ``lint(self) -> Iterable[Issue]``: problems and warnings that only the kind can know; their
    ``path`` is the name of the field.
    """

    sources: Mapping[str, type[BaseModel]]
    sinks: Mapping[str, type[BaseModel]]
