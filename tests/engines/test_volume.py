"""Telemount volumes with a real SFTP server behind them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.engines.inner import DEBIAN, Inner, until


def test_both_sides_read_and_write(engine: Inner, root: Path, volume: str, containers: Callable[..., str]) -> None:
    data = os.urandom(3_000_000)
    (root / "data").write_bytes(data)
    one = containers("one", "-v", f"{volume}:/mnt:nocopy")
    engine.docker("exec", one, "sh", "-c", "cp /mnt/data /mnt/copy && echo written >/mnt/new")
    assert (root / "copy").read_bytes() == data
    assert (root / "new").read_text() == "written\n"
    (root / "new").write_text("from there\n")
    until(lambda: engine.reads(one, "/mnt/new") == "from there", "what the remote side wrote is seen")
    assert engine.docker("run", "--rm", "-v", f"{volume}:/mnt:nocopy", DEBIAN, "cat", "/mnt/new") == "from there"
    assert volume in engine.docker("volume", "ls", "-q").split()
    assert json.loads(engine.docker("volume", "inspect", volume))[0]["Status"]["mounted"] is True


def test_docker_cp_while_it_runs(
    engine: Inner, root: Path, volume: str, containers: Callable[..., str], tmp_path: Path
) -> None:
    """``docker cp`` mounts and unmounts with the container's own ID."""
    (root / "f").write_text("content")
    one = containers("one", "-v", f"{volume}:/mnt:nocopy")
    for number in range(2):
        engine.docker("cp", f"{one}:/mnt/f", str(tmp_path / f"copy{number}"))
        assert (tmp_path / f"copy{number}").read_text() == "content"
        assert engine.reads(one, "/mnt/f") == "content"


def test_one_part_read_only(engine: Inner, root: Path, server: str) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "f").write_text("content")
    options = ["-o", f"address={server}", "-o", "dir=/sub", "-o", "ro"]
    engine.docker("volume", "create", "-d", "telemount:latest", *options, "part")
    try:
        assert engine.docker("run", "--rm", "-v", "part:/mnt:nocopy", DEBIAN, "cat", "/mnt/f") == "content"
        said = engine.refused("run", "--rm", "-v", "part:/mnt:nocopy", DEBIAN, "sh", "-c", "echo x >/mnt/f")
        assert "Read-only file system" in said
    finally:
        engine.docker("volume", "rm", "part")
    assert (root / "sub" / "f").read_text() == "content"


def test_what_is_wrong_is_told_in_one_line(engine: Inner, gateway: str) -> None:
    unknown = engine.refused("volume", "create", "-d", "telemount", "-o", "adress=x", "wrong")
    assert "there is no option 'adress'" in unknown
    assert len(unknown.splitlines()) == 1
    engine.docker("volume", "create", "-d", "telemount", "-o", f"address={gateway}:1", "dead")
    try:
        said = engine.refused("run", "--rm", "-v", "dead:/mnt:nocopy", DEBIAN, "true")
        assert f"cannot reach the SFTP server at {gateway}:1: Connection refused" in said
    finally:
        engine.docker("volume", "rm", "dead")
