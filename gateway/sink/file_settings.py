"""``[[sink]] type = "file"``: events as lines of a file, in clear text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictInt

from gateway.settings.fields import TABLE, Name
from gateway.sink.https_settings import BatchSettings, RetrySettings

__all__ = ["FileSettings"]


class FileSettings(BaseModel):
    """NDJSON of CloudEvents, mode 0600, fsynced before anything counts as delivered. IN CLEAR TEXT."""

    model_config = TABLE

    name: Name
    type: Literal["file"]
    path: Path
    """The file that is written; full ones get a time stamp in their name and stay beside it."""
    rotate_bytes: Annotated[StrictInt, Field(ge=4096)] = 67_108_864
    """A file of this size is full."""
    rotate_hours: Annotated[StrictInt, Field(ge=1)] = 24
    """A file whose first event is so old is full."""
    keep_files: Annotated[StrictInt, Field(ge=0)] = 30
    """So many full files are kept, the oldest are DELETED; 0 = all are kept."""
    batch: BatchSettings = BatchSettings()
    """How much is written with one fsync."""
    retry: RetrySettings = RetrySettings()
    """Pauses after failures."""
