"""Where the remote volumes appear, whether they can be written, and what the handler is told of them."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from orchestrator import dockerflags, mounting
from orchestrator.mounting import Mounts
from orchestrator.undo import Undo
from telewire.errors import BadRequest

ENGAGEMENT: Any = {
    "id": "e1",
    "kind": "intercept",
    "name": "web",
    "workload": "web",
    "export": {"port": 4040, "id": "e1"},
    "mounts": [
        {"path": "/data", "dir": "/.telepresence/data", "read_only": False},
        {"path": '/with "quote", comma', "read_only": False},
        {"path": "/secret", "dir": "/.telepresence/secret", "read_only": True},
    ],
}


class Api:
    def __init__(self) -> None:
        self.made: dict[str, dict[str, str]] = {}

    def create_volume(self, name: str, driver: str, driver_opts: dict[str, str], labels: dict[str, str]) -> None:
        assert driver == "telemount:latest"
        assert labels["telepresence.io/engagement"] == "e1"
        self.made[name] = driver_opts


class StandIn:
    """An engine with nothing but the daemon's container."""

    def __init__(self) -> None:
        self.api = Api()

    def told(self, _what: str) -> Undo:
        return Undo()

    def volumes(self) -> list[Any]:
        return []

    def inspect(self, _name: str) -> Any:
        ports = {"4038/tcp": [{"HostPort": "1"}]}
        network = {"Ports": ports, "Networks": {"bridge": {"IPAddress": "172.17.0.9"}}}
        return {"NetworkSettings": network, "Config": {"Env": ["TELEPRESENCE_TOKEN=t"]}}


def made(mounts: Mounts, *words: str, kind: str = "intercept") -> tuple[list[list[str]], dict[str, dict[str, str]]]:
    """Return the fields of each ``--mount``, and the volumes with their options."""
    engine: Any = StandIn()
    engagement: Any = {**ENGAGEMENT, "kind": kind}
    undo = Undo()
    flags = mounting.create(engine, "c", engagement, mounts, dockerflags.parse([*words, "x"]), "h", undo)
    undo.keep()
    return [next(csv.reader([flag.removeprefix("--mount=")])) for flag in flags], engine.api.made


def test_at_their_own_paths() -> None:
    flags, volumes = made(Mounts())
    common = ["type=volume", "volume-driver=telemount:latest", "volume-nocopy"]
    assert flags == [
        [*common, "source=h-0", "target=/data"],
        [*common, "source=h-1", 'target=/with "quote", comma'],
        [*common, "source=h-2", "target=/secret", "readonly"],
    ]
    both = {"address": "172.17.0.9:4040", "token": "t", "export": "e1"}
    assert volumes == {
        "h-0": {**both, "dir": "/.telepresence/data"},
        "h-1": {**both, "dir": '/with "quote", comma'},
        "h-2": {**both, "dir": "/.telepresence/secret", "ro": "true"},
    }


def test_below_a_path() -> None:
    flags, volumes = made(Mounts(root="/remote"))
    assert flags[0][-1] == "target=/remote/data"
    assert volumes["h-0"]["dir"] == "/.telepresence/data"


@pytest.mark.parametrize(
    ("mounts", "kind"), [(Mounts(read_only=True), "replace"), (Mounts(), "ingest"), (Mounts(), "wiretap")]
)
def test_read_only(mounts: Mounts, kind: str) -> None:
    flags, volumes = made(mounts, kind=kind)
    assert all(flag[-1] == "readonly" for flag in flags)
    assert all(options["ro"] == "true" for options in volumes.values())


def test_the_users_own_win() -> None:
    flags, _ = made(Mounts(), "-v", "/tmp:/data/", "--tmpfs", "/secret")
    assert [flag[4] for flag in flags] == ['target=/with "quote", comma']
    flags, _ = made(Mounts(root="/remote"), "-v", "/tmp:/remote/data")
    assert len(flags) == 2
    assert made(Mounts(False)) == ([], {})


def test_variables() -> None:
    paths = '/data:/with "quote", comma:/secret'
    assert Mounts().variables(ENGAGEMENT) == {"TELEPRESENCE_MOUNTS": paths}
    assert Mounts(root="/r").variables(ENGAGEMENT) == {"TELEPRESENCE_MOUNTS": paths, "TELEPRESENCE_ROOT": "/r"}
    assert Mounts(False).variables(ENGAGEMENT) == {}
    assert Mounts().variables({**ENGAGEMENT, "mounts": []}) == {}


@pytest.mark.parametrize(
    ("mount", "docker_mount", "found"),
    [
        (None, None, Mounts()),
        ("true", None, Mounts()),
        ("true:ro", None, Mounts(read_only=True)),
        ("false", None, Mounts(False)),
        ("", None, Mounts(False)),
        ("/mnt/x/", None, Mounts(root="/mnt/x")),
        ("/mnt//x:ro", None, Mounts(root="/mnt/x", read_only=True)),
        ("/", None, Mounts(root="/")),
        (None, "/d", Mounts(root="/d")),
        ("/m:ro", "/d", Mounts(root="/d", read_only=True)),
        ("true:ro", "/d", Mounts(root="/d", read_only=True)),
    ],
)
def test_options(mount: str | None, docker_mount: str | None, found: Mounts) -> None:
    assert mounting.parse(mount, docker_mount) == found


@pytest.mark.parametrize(
    ("mount", "docker_mount", "said"),
    [
        ("yes", None, "--mount is true, false or /PATH"),
        ("data", None, "--mount is .* not 'data'"),
        ("/a/../b", None, "--mount"),
        ("/a:rw", None, "--mount"),
        ("false:ro", None, "contradicts itself"),
        (None, "data", "--docker-mount is /PATH"),
        ("false", "/d", "--docker-mount says where to mount, --mount=false not to"),
        ("", "/d", "--docker-mount says where"),
    ],
)
def test_bad_options(mount: str | None, docker_mount: str | None, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        mounting.parse(mount, docker_mount)
