"""Docker Engines of other Debian releases, each in a container of this machine's engine.

``python tools/engines.py up|down 20.10|26.1|28.5``; ``clean`` removes all, and the images they are made of. An engine's API is the unix
socket ``build/engines/NAME/docker.sock``; the folder is there under the same path inside. It has a network namespace of its own, and its
data in a volume. Everything carries the label ``telepresence.io/engine``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.base import mirror

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "engines"
LABEL = "telepresence.io/engine"
LONGEST_SOCKET = 107
"""Bytes in the path of a unix socket, unix(7)."""
READY = 60.0
"""Seconds in which an engine has to answer."""

_NO_DOCS = ("doc", "man", "info", "locale", "lintian", "linda")
_ARGUMENTS = [
    "mmdebstrap", "--quiet", "--variant=minbase", "--aptopt=Acquire::Languages none",
    # A mirror may hold a state of an unreleased suite that is older than that suite's promise to be renewed.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NO_DOCS),
    '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*',
]  # fmt: skip
_PACKAGES = ("docker.io", "iptables", "iproute2", "procps", "ca-certificates")
_START = r"""
mount --make-rshared /  # a plugin's propagated mount needs it
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then  # a group with processes in it can hand no controllers on
    mkdir -p /sys/fs/cgroup/init
    xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || :
    sed -e 's/ / +/g' -e 's/^/+/' </sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
fi
trap 'kill "$(cat /run/docker.pid)"; wait; exit 0' TERM
while :; do
    rm -f /run/docker.pid
    dockerd -H unix:///run/docker.sock -H "unix://$1/docker.sock" --cgroup-parent "$2" $(cat "$1/flags") >>"$1/log" 2>&1 &
    wait $!
    sleep 0.1
done
"""
"""A dockerd that ends is started again, with the flags that then are in the file."""


class EnginesError(Exception):
    """An engine cannot be had; one line."""


@dataclass(frozen=True)
class Release:
    """A Debian release and what it packages."""

    suite: str
    packages: tuple[str, ...]

    @property
    def compose(self) -> bool:
        """Whether Compose is in its image."""
        return "docker-compose" in self.packages


_CLI = (*_PACKAGES, "docker-cli", "docker-buildx", "docker-compose")
RELEASES = {
    "28.5": Release("sid", _CLI),
    "26.1": Release("trixie", _CLI),
    "20.10": Release("bookworm", _PACKAGES),
}
"""By the engine's version, as of the time of writing: an unreleased suite moves on."""


def run(*command: str, check: bool = True, timeout: float = 300) -> str:
    """Run a command; return what it printed. EnginesError with the last line of its errors if it fails and ``check`` is set."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode and check:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip() and "--help" not in line]
        raise EnginesError(f"{' '.join(command[:3])}: {lines[-1] if lines else f'ended with {done.returncode}'}")
    return done.stdout.strip()


def image(release: Release) -> str:
    """Return the image of an engine; made if there is none, in the stead of one that was made in another way."""
    recipe = [*_ARGUMENTS, f"--include={','.join(release.packages)}", release.suite, "-"]
    repository = f"engine-{release.suite}"
    reference = f"{repository}:{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"
    if run("docker", "images", "-q", reference):
        return reference
    if not shutil.which(recipe[0]):
        raise EnginesError(f"{recipe[0]} is not there to make an engine of Debian {release.suite}; install it")
    print(f"engines: making an engine of Debian {release.suite}", file=sys.stderr)
    with subprocess.Popen([*recipe, f"deb {mirror()} {release.suite} main"], stdout=subprocess.PIPE) as made:
        loading = ["docker", "import", "--change", f"LABEL {LABEL}={release.suite}", "-", reference]
        loaded = subprocess.run(loading, stdin=made.stdout, capture_output=True, text=True)
    if made.returncode or loaded.returncode:
        run("docker", "rmi", reference, check=False)
        raise EnginesError(
            f"the image of Debian {release.suite} cannot be made: {loaded.stderr.strip() or 'see above'}"
        )
    for old in run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", repository).split():
        if old != reference:
            run("docker", "rmi", old, check=False)
    return reference


class Engine:
    """One engine, by a name of its own and the version that it has."""

    def __init__(self, version: str, name: str | None = None) -> None:
        self.version, self.release = version, RELEASES[version]
        self.name = name or version
        self.container = f"engine-{self.name}"
        self.folder = FOLDER / self.name
        self.socket = self.folder / "docker.sock"

    @property
    def host(self) -> str:
        """What ``DOCKER_HOST`` has to be to use it."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """A process of it on this machine, by which its network namespace is named."""
        return int(run("docker", "inspect", "-f", "{{.State.Pid}}", self.container))

    @property
    def address(self) -> str:
        """Its address on this machine's default bridge."""
        return run("docker", "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", self.container)

    def inside(self, *command: str, check: bool = True) -> str:
        """Run a command where its dockerd runs; return what it printed."""
        return run("docker", "exec", self.container, *command, check=check)

    def state(self) -> str:
        """Return ``running``, another state, or nothing if there is no container. EnginesError if one of that name is not ours."""
        form = f'{{{{.State.Status}}}} {{{{index .Config.Labels "{LABEL}"}}}}'
        found = run("docker", "inspect", "-f", form, self.container, check=False)
        if found and found.split()[1:] != [self.name]:
            raise EnginesError(f"there is a container {self.container} that is no engine of ours; remove it")
        return found.split()[0] if found else ""

    def up(self, *flags: str) -> None:
        """Have it: made, started again or found running. ``flags`` are dockerd's, from its next start on."""
        if len(os.fsencode(self.socket)) > LONGEST_SOCKET:
            raise EnginesError(f"the path of the socket {self.socket} is too long; use a folder with a shorter path")
        state = self.state()
        if not state:
            self._create(flags)
        else:
            self.set_flags(*flags)
            if state != "running":
                run("docker", "start", self.container)
        self.wait()

    def set_flags(self, *flags: str) -> None:
        """Set dockerd's flags, from its next start on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "flags").write_text(" ".join(flags))

    def _create(self, flags: Sequence[str]) -> None:
        reference = image(self.release)
        self.set_flags(*flags)
        run("docker", "volume", "create", "--label", f"{LABEL}={self.name}", self.container)
        own_groups = run("docker", "info", "-f", "{{.CgroupVersion}}") == "2"
        groups = ["--cgroupns", "private"] if own_groups else ["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
        command = [
            "docker", "run", "-d", "--init", "--name", self.container, "--hostname", self.container.replace(".", "-"),
            "--label", f"{LABEL}={self.name}", "-v", f"{self.container}:/var/lib/docker", "-v", f"{self.folder}:{self.folder}",
            "--device", "/dev/fuse", "--device", "/dev/net/tun", "--security-opt", "seccomp=unconfined",
            "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined", *groups,
            # As on a machine, where it is dockerd that turns forwarding on, and then has its firewall drop what is not a container's.
            "--sysctl", "net.ipv4.ip_forward=0",
        ]  # fmt: skip
        start = [reference, "sh", "-c", _START, "sh", str(self.folder), f"/{self.container}"]
        try:
            run(*command, "--privileged", *start)
        except EnginesError as error:
            # An engine that may not set limits itself cannot hand that on, and works without.
            run("docker", "rm", "-f", self.container, check=False)
            if "cap" not in str(error):
                raise
            run(*command, "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", *start)

    def wait(self) -> None:
        """Wait until it answers. EnginesError with its last words if it does not."""
        deadline = time.monotonic() + READY
        while not run("docker", "-H", self.host, "version", "-f", "{{.Server.Version}}", check=False):
            if time.monotonic() > deadline or self.state() != "running":
                with contextlib.suppress(OSError):
                    words = (self.folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
                    raise EnginesError(f"the engine {self.name} does not answer; it said last: {''.join(words)}")
                raise EnginesError(f"the engine {self.name} does not answer")
            time.sleep(0.1)

    def restart(self, signal: str = "TERM") -> None:
        """End its dockerd by a signal; return when the next one answers."""
        before = self.inside("pidof", "dockerd")
        self.inside("kill", f"-{signal}", before)
        deadline = time.monotonic() + READY
        while self.inside("pidof", "dockerd", check=False) in ("", before):
            if time.monotonic() > deadline:
                raise EnginesError(f"the dockerd of the engine {self.name} did not start again within {READY:.0f} s")
            time.sleep(0.1)
        self.wait()

    def reboot(self) -> None:
        """Take away all but its disk at once, as a power failure does, and start it again."""
        run("docker", "rm", "-f", self.container)
        self._remove_groups()
        self.up()

    def down(self) -> None:
        """Remove it with its data; no error if it is gone."""
        if self.state():
            run("docker", "rm", "-f", self.container)
        if run("docker", "volume", "ls", "-q", "--filter", f"label={LABEL}={self.name}"):
            run("docker", "volume", "rm", self.container)
        self._remove_groups()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_groups(self) -> None:
        """Remove the control groups of its containers, which outlive them where it has no groups of its own."""
        for top in Path("/sys/fs/cgroup").glob(f"*/{self.container}"):
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def clean() -> None:
    """Remove every engine, and the images they are made of."""
    flag = f"label={LABEL}"
    for kind in (["rm", "-f", *run("docker", "ps", "-aq", "--filter", flag).split()],
                 ["volume", "rm", *run("docker", "volume", "ls", "-q", "--filter", flag).split()],
                 ["rmi", *run("docker", "images", "-q", "--filter", flag).split()]):  # fmt: skip
        if len(kind) > 2 or (kind[0] == "rmi" and len(kind) > 1):
            run("docker", *kind)
    shutil.rmtree(FOLDER, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    if list(arguments) == ["clean"]:
        clean()
        return 0
    if len(arguments) != 2 or arguments[0] not in ("up", "down") or arguments[1] not in RELEASES:
        print(f"usage: engines.py up|down {'|'.join(sorted(RELEASES))}, or engines.py clean", file=sys.stderr)
        return 2
    try:
        engine = Engine(arguments[1])
        if arguments[0] == "down":
            engine.down()
        else:
            engine.up()
            found = run("docker", "-H", engine.host, "version", "-f", "{{.Server.Version}}")
            if not found.startswith(engine.version + "."):
                print(f"engines: Debian {engine.release.suite} has {found} by now", file=sys.stderr)
            print(f"export DOCKER_HOST={engine.host}")
    except (EnginesError, subprocess.TimeoutExpired, OSError) as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
