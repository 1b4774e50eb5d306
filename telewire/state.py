"""A JSON state file that is whole at any moment: written beside, flushed, renamed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class StateFile:
    """One JSON object in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any]:
        """Return what was saved last; empty if nothing was. A file that is not JSON is set aside, and that is logged."""
        try:
            loaded = json.loads(self.path.read_text())
            if not isinstance(loaded, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            aside = self.path.with_suffix(f".corrupt-{int(time.time())}")
            os.replace(self.path, aside)
            log.error("state in %s cannot be read (%s); set aside as %s, starting empty", self.path, error, aside.name)
            return {}
        return loaded

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``; it is on the disk when this returns. OSError if it cannot be."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        with open(beside, "w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.path)
        with contextlib.suppress(OSError):  # some file systems cannot flush a directory
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
