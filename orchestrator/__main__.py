"""``python -m orchestrator`` and the ``telepresence`` command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code. Errors are one line on stderr."""
    from orchestrator.cli import parser
    from orchestrator.undo import StoppedError
    from telewire.errors import TeleError

    words = list(sys.argv[1:] if arguments is None else arguments)

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    failure = 1
    debug = False
    try:
        invocation = parser.parse(words)
        if invocation is None:
            return 0
        failure, debug = invocation.failure, invocation.debug
        from orchestrator.cli import commands

        code = commands.run(invocation)
        sys.stdout.flush()
        return code
    except parser.UsageError as error:
        return _tell(str(error), 2)
    except TeleError as error:
        if debug:
            raise
        return _tell(str(error), failure)
    except StoppedError as error:
        return 128 + error.number
    except BrokenPipeError:
        # Whoever read our output has gone; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _tell(text: str, code: int) -> int:
    """Print an error as one line on stderr."""
    print(f"telepresence: {' '.join(text.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
