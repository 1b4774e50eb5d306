"""``--docker-build`` and ``--docker-debug``: build the handler's image before anything is changed in the cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import dockerflags
from orchestrator.dockerflags import DockerRun
from orchestrator.engine import docker_command
from orchestrator.progress import Reporter
from telewire.errors import BadRequest, NotFound, TeleError

IMAGE = "IMAGE"
"""The word that stands for the image that is built."""
_KEY = re.compile(r"[a-z][a-z0-9-]*")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|git@|github\.com/")
_DEBUG = [("security-opt", "apparmor=unconfined"), ("cap-add", "SYS_PTRACE")]


class BuildError(TeleError):
    """Docker could not build the image."""

    code = "bad-request"


@dataclass(frozen=True)
class Build:
    """What to build an image from.

    :ivar context: a folder, or a URL that ``docker build`` takes
    :ivar options: ``key=value``, each of which becomes ``--key=value`` of ``docker build``
    :ivar debug: whether a debugger is to run in the container, which needs relaxed security
    """

    context: str
    options: Sequence[str] = ()
    debug: bool = False


def placeholder(arguments: Sequence[str]) -> DockerRun:
    """Split ``[docker run flags] IMAGE [args]``, where the image is the word ``IMAGE``; it alone may be left out.

    :raises BadRequest: the word is missing or stands twice
    """
    if not arguments:
        return DockerRun(image=IMAGE)
    times = list(arguments).count(IMAGE)
    if times == 0:
        raise BadRequest(
            f"the word {IMAGE} is missing after `--`: it stands for the image that is built, as in "
            f"`-- [docker run flags] {IMAGE} [args]`"
        )
    if times > 1:
        raise BadRequest(
            f"the word {IMAGE} stands {times} times after `--`; write it once, for the image that is built"
        )
    run = dockerflags.parse(arguments)
    if run.image != IMAGE:
        raise BadRequest(f"{run.image!r} stands before {IMAGE} after `--`; only `docker run` flags may")
    return run


def check(build: Build | None, run: DockerRun) -> None:
    """Check what can be known before the build.

    :raises BadRequest: an option is malformed, or there is no image to run
    :raises NotFound: the folder is not there
    """
    if build is None:
        if run.image == IMAGE:
            raise BadRequest(f"{IMAGE} stands for what --docker-build builds; give --docker-build CONTEXT, or an image")
        return
    for option in build.options:
        key, equals, _ = option.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise BadRequest(
                f"--docker-build-opt is key=value, which becomes --key=value of `docker build`, not {option!r}"
            )
    if not build.context:
        raise BadRequest("the folder to build from is empty; write --docker-build CONTEXT, `.` for the current one")
    if not _REMOTE.match(build.context) and not Path(build.context).is_dir():
        raise NotFound(f"there is no folder {build.context} to build from; give --docker-build a folder or a URL")


def flags(build: Build | None) -> list[tuple[str, str]]:
    """Return the ``docker run`` flags that go with a build."""
    return list(_DEBUG) if build and build.debug else []


def build(wanted: Build, reporter: Reporter) -> str:
    """Build; return the image's ID. What Docker says goes to stderr as it comes, or if it is to be quiet, when it fails.

    :raises BuildError: with Docker's reason
    """
    docker = docker_command()
    with tempfile.TemporaryDirectory(prefix="telepresence-") as folder:
        told = Path(folder, "image")
        options = [f"-{option}" if option[1] == "=" else f"--{option}" for option in wanted.options]
        # The builder before BuildKit leaves the container of a step that failed; BuildKit takes the flag and has no use for it.
        command = [docker, "build", "--force-rm", *options, f"--iidfile={told}", wanted.context]
        code, said = _run(command, {**os.environ, **_builder(docker)}, reporter.quiet)
        if code:
            why = _reason(said) or f"exit code {code}"
            raise BuildError(f"the image cannot be built from {wanted.context}: {why}")
        image = told.read_text().strip() if told.exists() else ""
    if not image:
        raise BuildError(
            f"`docker build` made no image from {wanted.context}; leave out options that send it elsewhere"
        )
    return image


def _builder(docker: str) -> Mapping[str, str]:
    """Return what has Docker's command use BuildKit: before version 23 it has to be asked, unless the user has chosen."""
    if "DOCKER_BUILDKIT" in os.environ:
        return {}
    done = subprocess.run([docker, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    version = re.search(rb"version (\d+)\.", done.stdout)
    return {"DOCKER_BUILDKIT": "1"} if version and int(version[1]) < 23 else {}


def _run(command: Sequence[str], environment: Mapping[str, str], quiet: bool) -> tuple[int, str]:
    """Run a command whose output goes to our stderr; return its exit code and what it said."""
    said = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as child:
        assert child.stdout is not None
        try:
            while data := os.read(child.stdout.fileno(), 65536):
                said += data
                if not quiet:
                    _show(data)
        except BaseException:
            child.terminate()
            raise
    if child.returncode and quiet:
        _show(said)
    return child.returncode, said.decode(errors="replace")


def _show(data: bytes) -> None:
    sys.stderr.flush()
    os.write(sys.stderr.fileno(), data)


def _reason(said: str) -> str:
    """Return why a build failed: BuildKit's ``ERROR`` line, else the last line that is no advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Usage:", "Run '", "See '", "View build"))]
    lines = [line for line in lines if line.startswith("ERROR: ")] or lines
    reason = lines[-1] if lines else ""
    for prefix in ("ERROR: ", "failed to build: ", "failed to solve: ", "Error response from daemon: "):
        reason = reason.removeprefix(prefix)
    return reason
