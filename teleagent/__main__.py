"""The agent's command: ``python3 -m teleagent [--port N] [--exit-when-idle SECONDS] [--token-sha256 HEX]``.

Other arguments are the pod's and ignored.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the agent; ends the process."""
    # Before anything slow: PID 1 without a handler would ignore a SIGTERM that comes during the start.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))

    from teleagent.options import parse
    from teleagent.process import serve
    from telewire.errors import TeleError

    try:
        code = serve(parse(sys.argv[1:]))
    except TeleError as error:
        sys.stderr.write(f"teleagent: {error}\n")
        code = 2
    sys.stderr.flush()
    os._exit(code)  # not sys.exit: a thread that hangs in a file or a name look-up must not hold up the end


if __name__ == "__main__":
    main()
