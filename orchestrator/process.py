"""Run one command in the foreground as if we were it: terminal, signals and exit code are its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

_PASSED_ON = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCONT,
}
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_FROM_KERNEL = 0x80
"""``si_code`` of a signal that the terminal sent: it went to the whole foreground group."""
_TAIL = 4096


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (128 + N by signal N), and the last it said on stderr if that was kept."""

    code: int
    errors: str = ""


def foreground(
    command: Sequence[str],
    deliver: Callable[[int], object] | None = None,
    reads: bool = True,
    apart: bool = False,
    started: Callable[[], object] | None = None,
    ending: Callable[[], object] | None = None,
) -> Ended:
    """Run a command with our terminal until it ends.

    :param deliver: if given, signals go there and not to the command, whose stderr is kept
    :param reads: whether the command reads our stdin
    :param apart: whether the command stands outside the terminal's foreground group, so that Ctrl-C is ours to deliver.
        Docker's command needs that: version 28 of ``docker start --attach`` leaves at an interrupt and lets the
        container run, where ``docker run`` passes it on
    :param started: called when the command has been started
    :param ending: called at the first signal that asks to end, after it was passed on
    """
    # Started by nohup, to outlive the terminal, we must not wait for a hangup: blocked, it would reach us all the same.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    passed_on = _PASSED_ON - ignored
    waited = {*passed_on, signal.SIGCHLD, signal.SIGWINCH}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    relayed = apart and reads and sys.stdin.isatty()
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if relayed else None if reads else subprocess.DEVNULL,
            stderr=subprocess.PIPE if deliver else None,
            process_group=0 if apart else None,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
        if relayed:
            threading.Thread(target=_type, args=(child.stdin,), daemon=True).start()
        tail = _Tail(child.stderr) if child.stderr else None
        if started:
            started()
        told = False
        while child.poll() is None:
            info = signal.sigwaitinfo(waited)
            number = info.si_signo
            if number == signal.SIGWINCH and apart:
                child.send_signal(number)
            if number not in passed_on:
                continue
            if deliver and (apart or info.si_code != _FROM_KERNEL or number == signal.SIGHUP):
                threading.Thread(target=deliver, args=(number,), daemon=True).start()
            elif not deliver and info.si_code != _FROM_KERNEL:
                child.send_signal(number)
            if number in _ENDING and ending and not told:
                told = True
                ending()
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        return Ended(code, tail.text() if tail else "")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _type(into: IO[bytes]) -> None:
    """Pass on what is typed; a command that has ended reads no more."""
    with contextlib.suppress(OSError), into:
        while data := os.read(sys.stdin.fileno(), 65536):
            into.write(data)
            into.flush()


class _Tail:
    """Pass a stream on to our stderr and remember its end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._stream:
            while data := os.read(self._stream.fileno(), 65536):
                self._kept = (self._kept + data)[-_TAIL:]
                with contextlib.suppress(OSError):  # nobody watches any more
                    os.write(sys.stderr.fileno(), data)

    def text(self) -> str:
        """Return the end of what was said, when all of it has been passed on."""
        self._thread.join(5)
        return self._kept.decode(errors="replace")
