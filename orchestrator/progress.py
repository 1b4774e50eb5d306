"""Tell on stderr what is going on, when a person watches."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

MODES = ("auto", "plain", "quiet")


class Reporter:
    """Progress and notes on stderr; data never passes here.

    :param mode: ``auto``: live steps on a terminal, else only notes; ``plain``: a line for each step; ``quiet``: nothing
    """

    def __init__(self, mode: str = "auto", stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.quiet = mode == "quiet"
        self.live = mode == "auto" and self.stream.isatty()
        self.steps = self.live or mode == "plain"
        self.colour = self.live and "NO_COLOR" not in os.environ

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show a step while it runs and how long it took."""
        if not self.steps:
            yield
            return
        started = time.monotonic()
        if self.live:
            self._write(f"⠿ {text} …\r")
        try:
            yield
        except BaseException:
            if self.live:
                self._write("\033[2K\r")
            raise
        mark = "\033[32m✔\033[0m" if self.colour else "✔"
        clear = "\033[2K\r" if self.live else ""
        self._write(f"{clear}{mark} {text}  {time.monotonic() - started:.1f}s\n")

    def note(self, text: str) -> None:
        """Print what the user is to know even if nobody watches the steps."""
        if not self.quiet:
            self._write(("\033[2K\r" if self.live else "") + text + "\n")  # a step's line may stand there

    def _write(self, text: str) -> None:
        """Write; a terminal that was closed in the meantime is nobody to tell."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()
