"""Read the arguments of ``docker run`` well enough to find the image and to add flags of our own.

The table is what ``docker run --help`` of the CLI 20.10 to 28 lists, plus the hidden aliases in docker/cli's
``cli/command/container/opts.go``. Short flags follow pflag: ``-it``, ``-p8080:80``, ``-p=8080:80``, ``-itp 8080:80``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from telewire.errors import BadRequest

_SHORT = {
    "a": "attach",
    "c": "cpu-shares",
    "d": "detach",
    "e": "env",
    "h": "hostname",
    "i": "interactive",
    "l": "label",
    "m": "memory",
    "P": "publish-all",
    "p": "publish",
    "q": "quiet",
    "t": "tty",
    "u": "user",
    "v": "volume",
    "w": "workdir",
}
_ALIASES = {"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option"}
_BOOLEAN_TEXT = """
detach disable-content-trust help init interactive no-healthcheck oom-kill-disable privileged publish-all quiet read-only
rm sig-proxy tty use-api-socket
"""
_VALUED_TEXT = """
add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-count
cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems detach-keys device
device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops dns dns-option dns-search
domainname entrypoint env env-file expose gpus group-add health-cmd health-interval health-retries health-start-interval
health-start-period health-timeout hostname io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label
label-file link link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness
mount name network network-alias oom-score-adj pid pids-limit platform publish pull restart runtime security-opt shm-size
stop-signal stop-timeout storage-opt sysctl tmpfs ulimit user userns uts volume volume-driver volumes-from workdir
"""
_BOOLEAN, _VALUED = set(_BOOLEAN_TEXT.split()), set(_VALUED_TEXT.split())
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}

RUN_ONLY = {"detach", "sig-proxy", "detach-keys", "pull", "quiet"}
"""Flags of ``docker run`` that are not passed to ``docker create``: ours to carry out."""


@dataclass
class DockerRun:
    """The arguments of one ``docker run``: flags by their long names in the order given, image, command."""

    flags: list[tuple[str, str]] = field(default_factory=list)
    image: str = ""
    command: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """Return every value given for a flag."""
        return [value for flag, value in self.flags if flag == name]

    def value(self, name: str) -> str | None:
        """Return the last value given for a flag, which is the one that counts for Docker."""
        return next((value for flag, value in reversed(self.flags) if flag == name), None)

    def true(self, name: str, default: bool = False) -> bool:
        """Return whether a boolean flag is on."""
        value = self.value(name)
        return default if value is None else value in _TRUE

    def create_arguments(self, extra: Sequence[str] = ()) -> list[str]:
        """Return what follows ``docker create``; ``extra`` flags stand before the user's own."""
        flags = [f"--{name}={value}" for name, value in self.flags if name not in RUN_ONLY]
        return [*extra, *flags, self.image, *self.command]


def parse(arguments: Sequence[str], image_required: bool = True) -> DockerRun:
    """Split ``[docker run flags] IMAGE [args]``.

    :raises BadRequest: a flag is unknown or lacks its value, or there is no image
    """
    run = DockerRun()
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _long(run, word[2:], rest)
        else:
            _cluster(run, word[1:], rest)
    if not rest:
        if image_required:
            raise BadRequest("there is no image: say which one to run, as in `-- [docker run flags] IMAGE [args]`")
        return run
    run.image, run.command = rest[0], rest[1:]
    if not run.image:
        raise BadRequest("the image's name is empty; say which image to run")
    return run


def _long(run: DockerRun, text: str, rest: list[str]) -> None:
    """Take one ``--flag``, ``--flag=value`` or ``--flag value``."""
    name, equals, value = text.partition("=")
    name = _ALIASES.get(name, name)
    if name in _BOOLEAN:
        run.flags.append((name, _boolean(name, value) if equals else "true"))
    elif equals:
        run.flags.append((name, value))
    elif name in _VALUED:
        run.flags.append((name, _next(f"--{name}", rest)))
    else:
        raise BadRequest(
            f"--{name} is not a `docker run` flag known here; if your Docker knows it, write it as --{name}=VALUE"
        )


def _cluster(run: DockerRun, letters: str, rest: list[str]) -> None:
    """Take short flags written together, of which only the last may have a value."""
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _SHORT.get(letter)
        if name is None:
            raise BadRequest(
                f"-{letter} is not a `docker run` flag; flags for the container's command follow the image"
            )
        if letters.startswith("="):
            value = letters[1:]
            run.flags.append((name, _boolean(name, value) if name in _BOOLEAN else value))
            return
        if name in _BOOLEAN:
            run.flags.append((name, "true"))
        elif letters:
            run.flags.append((name, letters))
            return
        else:
            run.flags.append((name, _next(f"-{letter}", rest)))


def _next(flag: str, rest: list[str]) -> str:
    """Take the next word as a flag's value."""
    if not rest:
        raise BadRequest(f"the `docker run` flag {flag} needs a value")
    return rest.pop(0)


def _boolean(name: str, value: str) -> str:
    """Return ``true`` or ``false`` for what Go's strconv.ParseBool takes."""
    if value in _TRUE:
        return "true"
    if value in _FALSE:
        return "false"
    raise BadRequest(f"the `docker run` flag --{name} is either true or false, not {value!r}")


def mount_targets(run: DockerRun) -> set[str]:
    """Return the paths in the container at which the user mounts something: those win over automatic mounts."""
    targets = set()
    for value in run.values("volume"):
        parts = value.split(":")
        targets.add(parts[1] if len(parts) > 1 else parts[0])
    for value in run.values("tmpfs"):
        targets.add(value.split(":")[0])
    for value in run.values("mount"):
        fields = dict(part.partition("=")[::2] for part in value.split(","))
        targets.update(fields[key] for key in ("target", "dst", "destination") if fields.get(key))
    return {target.rstrip("/") or "/" for target in targets}


def networks(run: DockerRun) -> list[str]:
    """Return the networks that the user gives the container, also from the long form ``name=…,ip=…``."""
    found = []
    for value in run.values("network"):
        fields = dict(part.partition("=")[::2] for part in value.split(","))
        found.append(fields.get("name", value))
    return found


@dataclass(frozen=True)
class Published:
    """One host port that the container wants: ``address`` is empty for all addresses."""

    address: str
    port: int
    protocol: str


def published(run: DockerRun) -> list[Published]:
    """Return the host ports that ``-p`` claims; ports that Docker chooses and ranges are Docker's to check."""
    found = []
    for value in run.values("publish"):
        text, _, protocol = value.partition("/")
        host, _, _container = text.rpartition(":")
        address, _, port = host.rpartition(":")
        if port.isdigit() and int(port):
            found.append(Published(address.strip("[]"), int(port), protocol or "tcp"))
    return found
