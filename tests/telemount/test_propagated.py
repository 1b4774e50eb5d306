"""Whether the engine sees the plugin's mounts, with mount namespaces as engine and plugin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemount import mounts
from telemount.propagated import prepare

pytestmark = pytest.mark.root

PLUGIN = """
import subprocess, sys
from pathlib import Path
from telemount import mounts
from telemount.propagated import prepare
engine, here, good = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "good"
def run(*command): subprocess.run(command, check=True)
if not good:  # as runc does it with a directory that is no mount point any more
    run("mount", "--make-rprivate", "/")
    run("umount", engine)
run("mount", "--rbind", engine, str(here))
if good:  # a plugin does not see the engine's own mounts
    run("mount", "--make-private", "/")
    run("mount", "--make-private", engine)
    run("umount", "-l", engine)
run("mount", "--make-shared", str(here))
print(prepare(here))
(here / "volumes" / "v").mkdir()
mounts.mount("told", str(here / "volumes" / "v"), "tmpfs", 0)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    """The directory as dockerd has made it: a shared mount."""
    made = tmp_path / "engine"
    made.mkdir()
    subprocess.run(["mount", "--bind", made, made], check=True)
    subprocess.run(["mount", "--make-private", made], check=True)
    subprocess.run(["mount", "--make-shared", made], check=True)
    yield made
    subprocess.run(["umount", "-R", made], check=True)


def start(engine: Path, here: Path, kind: str) -> str:
    """Start a plugin that prepares and mounts something; return what it found."""
    here.mkdir(exist_ok=True)
    command = [
        "unshare",
        "-m",
        "--propagation",
        "unchanged",
        sys.executable,
        "-c",
        PLUGIN,
        str(engine),
        str(here),
        kind,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def points(engine: Path) -> set[str]:
    """Return what is mounted below the engine's directory."""
    return {path.removeprefix(f"{engine}/") for path in mounts.mounted(kind=None) if path.startswith(f"{engine}/")}


def test_seen_and_seen_again(engine: Path, tmp_path: Path) -> None:
    assert start(engine, tmp_path / "plugin", "good") == "True"
    assert points(engine) == {"volumes", "volumes/v"}
    (engine / "volumes" / "v" / "f").touch()
    subprocess.run(["umount", engine / "volumes" / "v"], check=True)
    (engine / "volumes" / "v").rmdir()
    assert start(engine, tmp_path / "plugin", "good") == "True"
    assert points(engine) == {"volumes", "volumes/v"}
    assert not (engine / "trial").exists()


def test_not_seen(engine: Path, tmp_path: Path) -> None:
    (engine / "volumes" / "old").mkdir(parents=True)
    assert start(engine, tmp_path / "plugin", "bad") == "False"
    assert points(engine) == set()
    assert list((engine / "volumes").iterdir()) == [], "the engine has to find nothing, rather than a directory"


def test_an_ordinary_directory_is_left_alone(tmp_path: Path) -> None:
    assert prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []
