"""A small process on the user's machine that renews the daemon's Kubernetes credentials before they expire.

It is started detached by ``connect`` when the kubeconfig has an ``exec`` plugin or a token file, asks the daemon whether
the API server has refused the credentials, and ends when the daemon is gone. What it needs comes on stdin: nothing of it
is to be seen in a process list or a file.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import kubeconfig
from orchestrator.control import Control, NoAnswerError, UnauthorizedError
from orchestrator.execplugin import Credentials
from telewire.errors import TeleError

WAIT = 20
"""Seconds that the daemon may hold one question."""
AHEAD = 60.0
"""Seconds before the expiry at which credentials are renewed, if they live longer than twice that."""
GONE_AFTER = 10.0
"""Seconds without any answer after which the daemon counts as gone."""
TOKEN_FILE_AGE = 60.0
"""Seconds after which a token file is read again; client-go does the same."""


def spawn(control: Control, context: kubeconfig.KubeContext, given: Credentials) -> None:
    """Start the process, detached from the terminal."""
    root = str(Path(__file__).resolve().parent.parent)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from orchestrator import credentials; credentials.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    told = {
        "port": control.port,
        "token": control.token,
        "name": control.name,
        "paths": context.paths,
        "context": context.name,
        "expires": given.expires,
        "every": TOKEN_FILE_AGE if context.token_file and not context.exec_plugin else None,
    }
    assert child.stdin is not None
    child.stdin.write(json.dumps(told).encode())
    child.stdin.close()
    child.returncode = 0  # it outlives us on purpose: nobody is to wait for it


def main() -> None:
    """Run until the daemon is gone."""
    told = json.load(sys.stdin)
    control = Control(int(told["port"]), str(told["token"]), str(told["name"]))

    def fetch() -> Credentials:
        environment = {"KUBECONFIG": str(told["paths"])}
        found = kubeconfig.load(context=str(told["context"]), environment=environment).credentials(interactive=False)
        return found or Credentials()

    keep(control, fetch, Credentials(expires=told.get("expires")), float(told.get("every") or math.inf))


def keep(control: Control, fetch: Callable[[], Credentials], first: Credentials, every: float = math.inf) -> None:
    """Renew until the daemon is gone.

    :param fetch: asks the plugin or reads the token file
    :param first: what the daemon has been given at ``connect``
    :param every: seconds after which credentials that do not tell their expiry are fetched again
    """
    due = _due(first, time.time(), every)
    pause = 0.0
    last_answer = time.monotonic()
    current = first
    while True:
        left = max(1, int(min(WAIT, due - time.time())))
        try:
            wanted = bool(control.call("GET", f"/v1/credentials?wait={left}", timeout=left + 15).get("wanted"))
            last_answer = time.monotonic()
        except UnauthorizedError:
            return
        except NoAnswerError:
            if time.monotonic() - last_answer > GONE_AFTER:
                return
            time.sleep(0.5)
            continue
        if not wanted and time.time() < due:
            time.sleep(0.5)  # never more than two questions a second, however soon they are answered
            continue
        try:
            found = fetch()
            if found != current or wanted:
                control.call("PUT", "/v1/credentials", found.as_update())
            current, due, pause = found, _due(found, time.time(), every), 0.0
        except NoAnswerError:
            continue
        except TeleError:
            # The daemon's status tells that the API server refuses; a login may mend the plugin meanwhile.
            pause = min(60.0, pause * 2 or 5.0)
            due = time.time() + pause
            time.sleep(pause if wanted else 0)
        else:
            if wanted:
                time.sleep(2)


def _due(credentials: Credentials, now: float, every: float) -> float:
    """Return when to renew, in seconds since the epoch."""
    expiry = credentials.expiry()
    if expiry is None:
        return now + every
    return max(now + 5.0, expiry - min(AHEAD, (expiry - now) / 2))
