"""In a container: print the seconds that a shell command takes. ``shell.py COMMAND``."""

from __future__ import annotations

import subprocess
import sys
import time

begun = time.perf_counter()
subprocess.run(["/bin/sh", "-c", sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - begun)
