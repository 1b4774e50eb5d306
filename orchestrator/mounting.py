"""Give the handler the remote container's volumes: what ``--mount`` asks for, and a Telemount volume for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from orchestrator import cleanup, daemon, dockerflags
from orchestrator.engine import Engine
from orchestrator.model import Engagement, Mount
from orchestrator.undo import Undo
from telewire import names
from telewire.errors import BadRequest, NotFound

_READ_ONLY_KINDS = ("ingest", "wiretap")


@dataclass(frozen=True)
class Mounts:
    """How the remote volumes are to appear in the handler.

    :ivar root: the directory in the handler below which they appear, default at their own paths
    :ivar read_only: whether none of them may be written
    """

    enabled: bool = True
    root: str | None = None
    read_only: bool = False

    def target(self, path: str) -> str:
        """Return where the volume of the remote ``path`` appears in the handler."""
        return (self.root or "").rstrip("/") + path

    def variables(self, engagement: Engagement) -> dict[str, str]:
        """Return the environment variables that tell a program of the volumes."""
        found = {}
        if self.enabled and engagement["mounts"]:
            found["TELEPRESENCE_MOUNTS"] = ":".join(mount["path"] for mount in engagement["mounts"])
        if self.enabled and self.root:
            found["TELEPRESENCE_ROOT"] = self.root
        return found


def parse(mount: str | None = None, docker_mount: str | None = None) -> Mounts:
    """Read ``--mount true|false|/PATH[:ro]`` and ``--docker-mount /PATH``, which wins over the former's path.

    :raises BadRequest: one is malformed, or they contradict each other
    """
    text = "true" if mount is None else mount
    read_only = text.endswith(":ro")
    text = text.removesuffix(":ro")
    if text.lower() in ("false", ""):
        if read_only:
            raise BadRequest("--mount false:ro contradicts itself; write false, true:ro or /PATH:ro")
        if docker_mount is not None:
            raise BadRequest("--docker-mount says where to mount, --mount=false not to; leave out one of them")
        return Mounts(False)
    root = None
    if text.lower() != "true":
        root = _directory(text, "--mount", "true, false or /PATH, with :ro behind it if need be")
    if docker_mount is not None:
        root = _directory(docker_mount, "--docker-mount", "/PATH")
    return Mounts(True, root, read_only)


def _directory(text: str, option: str, forms: str) -> str:
    parts = text.split("/")
    if not text.startswith("/") or ":" in text or ".." in parts:
        raise BadRequest(f"{option} is {forms}, an absolute path in the container, not {text!r}")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def create(
    engine: Engine,
    connection: str,
    engagement: Engagement,
    wanted: Mounts,
    run: dockerflags.DockerRun,
    prefix: str,
    undo: Undo,
) -> list[str]:
    """Create the volumes; return the ``docker create`` flags for them. ``undo`` gets the steps back.

    :param run: the user's flags: a mount of the user's wins over one of ours at the same path
    :param prefix: volumes are named ``<prefix>-<index>``
    """
    taken = dockerflags.mount_targets(run)
    mounts = [one for one in engagement["mounts"] if wanted.target(one["path"]).rstrip("/") not in taken]
    if not wanted.enabled or not mounts:
        return []
    inspected = engine.inspect(daemon.container_name(connection))
    address, token = daemon.address(inspected), daemon.control(inspected, connection).token
    labels = daemon.labels(connection, names.ROLE_VOLUME, {names.LABEL_ENGAGEMENT: engagement["id"]})
    forgotten = {one["Name"] for one in engine.volumes()}
    flags = []
    for index, mount in enumerate(mounts):
        read_only = wanted.read_only or mount["read_only"] or engagement["kind"] in _READ_ONLY_KINDS
        volume = f"{prefix}-{index}"
        undo.add(f"volume {volume}", partial(cleanup.remove_volume, engine, volume))
        if volume in forgotten:  # Docker would give it out unchanged
            cleanup.remove_volume(engine, volume)
        options = _options(token, address, engagement, mount, read_only)
        with engine.told(f"creating the volume {volume}"):
            engine.api.create_volume(volume, driver=names.TELEMOUNT_PLUGIN, driver_opts=options, labels=labels)
        flags.append(_flag(volume, wanted.target(mount["path"]), read_only))
    return flags


def _flag(volume: str, target: str, read_only: bool) -> str:
    """Return ``--mount``; its value is one line of CSV."""
    quoted = target.replace('"', '""')
    return (
        f"--mount=type=volume,volume-driver={names.TELEMOUNT_PLUGIN},volume-nocopy,"
        f'source={volume},"target={quoted}"' + (",readonly" if read_only else "")
    )


def _options(token: str, address: str, engagement: Engagement, mount: Mount, read_only: bool) -> dict[str, str]:
    """Return Telemount's options for one of the engaged container's volumes."""
    export = engagement["export"]
    if export is None:
        raise NotFound(f"the daemon exports no files of {engagement['workload']}, though it has volumes")
    options = {
        "address": f"{address}:{export['port']}",
        "token": token,
        "export": export["id"],
        "dir": mount.get("dir") or mount["path"],
    }
    if read_only:
        options["ro"] = "true"
    return options
