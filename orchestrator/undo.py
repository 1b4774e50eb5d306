"""Undo what was made when a later step fails, the last first."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import TracebackType

from telewire.errors import TeleError


class StoppedError(BaseException):
    """A signal asked the command to end; carries its number. No ``Exception``, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Undo:
    """A stack of steps back, run unless :meth:`keep` was called; signals wait until they are done.

    What a step back fails at is collected in ``failed``, so that the first error stays the one that is told.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []
        self.failed: list[str] = []

    def add(self, what: str, step: Callable[[], object]) -> None:
        """Remember a step back; ``what`` names what stays behind if it fails."""
        self._steps.append((what, step))

    def keep(self) -> None:
        """Forget the steps: all went well."""
        self._steps.clear()

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._steps:
            return
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            while self._steps:
                what, step = self._steps.pop()
                try:
                    step()
                except TeleError as failure:
                    self.failed.append(f"{what}: {failure}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if self.failed and isinstance(error, TeleError):
            error.args = (f"{error}; left behind: {'; '.join(self.failed)}",)
