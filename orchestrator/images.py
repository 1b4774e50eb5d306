"""Have an image in the engine before anything else is touched."""

from __future__ import annotations

import subprocess
import sys

from orchestrator.engine import Engine, docker_command
from orchestrator.progress import Reporter
from telewire.errors import NotFound


def ensure(
    engine: Engine, image: str, reporter: Reporter, advice: str, policy: str = "missing", platform: str | None = None
) -> None:
    """Pull an image if need be, by Docker's command, which knows the user's logins.

    :param advice: what to do if it cannot be had
    :param policy: as ``docker run --pull``: ``missing``, ``always`` or ``never``
    :raises NotFound: it is not there and cannot be pulled
    """
    if policy != "always" and engine.has_image(image):
        return
    if policy == "never":
        raise NotFound(f"there is no image {image} here, and `--pull never` forbids to pull it; {advice}")
    command = [docker_command(), "pull", *(["--platform", platform] if platform else []), image]
    with reporter.step(f"Pulling the image {image}"):
        watched = reporter.live
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if watched else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    if done.returncode:
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        reason = said[-1].removeprefix("Error response from daemon: ") if said else f"exit code {done.returncode}"
        raise NotFound(f"there is no image {image} here, and it cannot be pulled ({reason}); {advice}")
