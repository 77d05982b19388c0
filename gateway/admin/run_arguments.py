"""The arguments of ``edge-gateway run``, read without click: what the daemon does not import it does not carry."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CONFIGURATION_VARIABLE", "run_arguments"]

CONFIGURATION_VARIABLE = "EDGE_GATEWAY_CONFIG"


def run_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> Path:
    """The configuration file that ``run`` is to use; ``arguments`` are those after ``run``.

    Raises ``SystemExit``: 0 after ``--help``, 2 (usage) where no file is named.
    """
    parser = argparse.ArgumentParser("edge-gateway run", description="Run the gateway in the foreground until SIGTERM or Ctrl-C.")
    parser.add_argument("-c", "--config", metavar="FILE", help=f"the configuration; default: ${CONFIGURATION_VARIABLE}")
    named: str | None = parser.parse_args(list(arguments)).config or environ.get(CONFIGURATION_VARIABLE) or None
    if named is None:
        parser.error(f"no configuration: give -c FILE or set {CONFIGURATION_VARIABLE}; `edge-gateway init DIR` makes one")
    return Path(named)
