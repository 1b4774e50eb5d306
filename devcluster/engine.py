"""The Docker Engine, as far as the development cluster uses it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

from telewire.errors import NotFound, TeleError, Unavailable


class DevclusterError(TeleError):
    """Something that the development cluster needs is not there or failed."""


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn the ``docker`` package's errors into ours: one line that begins with what was done."""
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.NotFound as error:
        raise NotFound(f"{what}: {error.explanation or error}") from None
    except docker.errors.APIError as error:
        raise DevclusterError(f"{what}: {' '.join(str(error.explanation or error).split())}") from None
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise Unavailable(f"{what}: the Docker Engine does not answer ({error}); start it") from None


def client() -> Any:
    """Return the engine's low-level client. Unavailable if it does not answer."""
    import docker

    with told("asking the Docker Engine"):
        return docker.from_env(version="auto", timeout=120).api  # the same engine as the docker command's: DOCKER_HOST


def has_image(api: Any, reference: str) -> str | None:
    """Return an image's ID, or None if the engine does not have it."""
    try:
        with told(f"inspecting the image {reference}"):
            return str(api.inspect_image(reference)["Id"])
    except NotFound:
        return None


def build(folder: str, tag: str, *, dockerfile: str | None = None) -> None:
    """Build an image by the docker command, which knows contexts and ignore files. DevclusterError with its last line if it fails."""
    command = ["docker", "build", "-q", "-t", tag, *(["-f", dockerfile] if dockerfile else []), folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise DevclusterError(f"building the image {tag} failed: {lines[-1] if lines else 'no output'}")


def run_in(api: Any, container: str, *command: str) -> str:
    """Run a command in a container; return what it printed. DevclusterError with that if it fails."""
    with told(f"running {command[0]} in the container"):
        started = api.exec_create(container, list(command))
        output = api.exec_start(started["Id"]).decode(errors="replace")
        code = api.exec_inspect(started["Id"])["ExitCode"]
    if code:
        lines = output.strip().splitlines()
        raise DevclusterError(f"{' '.join(command[:3])} ended with {code}: {lines[-1] if lines else 'no output'}")
    return str(output)
