"""The registry of source and sink kinds by their settings: what ``type`` may say.

A new kind = its file, its settings model beside it, one row here and one in ``parts.py``.
"""

from __future__ import annotations

from typing import Final

from gateway.settings.kinds import Kinds
from gateway.sink.file_settings import FileSettings
from gateway.sink.https_settings import HttpsSettings
from gateway.sink.mllp_settings import MllpSinkSettings
from gateway.source.mllp_settings import MllpSettings

__all__ = ["KINDS"]

KINDS: Final = Kinds(
    sources={"mllp": MllpSettings},
    sinks={"https": HttpsSettings, "file": FileSettings, "mllp": MllpSinkSettings},
)
