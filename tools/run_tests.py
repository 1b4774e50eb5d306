"""Run every test, in two lanes beside each other; with arguments run just ``pytest`` with them.

One lane has the cluster, the host's network and its mounts to itself, since its tests compare them before and after. The other has the
rooms' own tests, in a network and a mount namespace that nobody else sees, and other engines, each in a container.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest"]
ENGINES, SESSION = "tests/engines", "tests/engines/test_session.py"
ALONE = ["tests/e2e", SESSION, "tests/teleroute/test_plugin.py", "tests/telemount/test_plugin.py"]
"""What needs the host's network, the development cluster, or the plugins that are installed."""
NAMESPACES = ["unshare", "-m", "-n", "--propagation", "private", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def lanes() -> tuple[list[list[str]], list[list[str]]]:
    """Return the commands of the lane in front and of the one beside it."""
    front = [[*PYTEST, *ALONE]]
    rooms = [f"--ignore={path}" for path in (*ALONE, ENGINES)]
    cache = ["-o", "cache_dir=.pytest_cache/beside"]
    beside = [
        [*NAMESPACES, *PYTEST, *cache, "tests", *rooms],
        [*PYTEST, *cache, ENGINES, f"--ignore={SESSION}"],
    ]
    return front, beside


class Lane:
    """Commands one after another, all of them, whatever each ends with."""

    def __init__(self, commands: list[list[str]], output: int | None) -> None:
        self._commands, self._output = commands, output
        self._running: subprocess.Popen[bytes] | None = None
        self._ended = False
        self.codes: list[int] = []

    def run(self) -> None:
        """Run them."""
        for command in self._commands:
            if self._ended:
                return
            self._running = subprocess.Popen(command, cwd=ROOT, stdout=self._output, stderr=self._output)
            self.codes.append(self._running.wait())

    def end(self) -> None:
        """Have the one that runs end as on Ctrl-C, with all that it cleans up, and start none after it."""
        self._ended = True
        if self._running is not None and self._running.poll() is None:
            self._running.send_signal(signal.SIGINT)


def main() -> int:
    """Return 0 if every test passed."""
    if sys.argv[1:]:
        return subprocess.run([*PYTEST, *sys.argv[1:]], cwd=ROOT).returncode
    front, beside = lanes()
    if os.geteuid() != 0:
        print("tests: not root, so in one lane, without namespaces", file=sys.stderr)
        return subprocess.run(PYTEST, cwd=ROOT).returncode
    with tempfile.TemporaryFile() as output:
        ahead, other = Lane(front, None), Lane(beside, output.fileno())
        # Started in the background of a script, what we start would ignore the interrupt that ends it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: (ahead.end(), other.end()))
        thread = threading.Thread(target=other.run)
        thread.start()
        try:
            ahead.run()
            thread.join()
        except KeyboardInterrupt:
            other.end()  # the one in front was interrupted by the terminal itself
            thread.join()
        finally:
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
            sys.stdout.flush()
    codes = ahead.codes + other.codes
    return 0 if len(codes) == len(front) + len(beside) and not any(codes) else 1


if __name__ == "__main__":
    sys.exit(main())
