"""Stock sshfs against the agent's SFTP server."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.teleagent.conftest import free_port

pytestmark = pytest.mark.root


@contextlib.contextmanager
def mounted(root: Path, where: Path, *options: str) -> Iterator[Path]:
    """Give ``root``, served and mounted at ``where``."""
    assert shutil.which("sshfs"), "sshfs is not installed; run tools/setup.sh test, or install the package sshfs"
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "teleagent.sftp", "--listen", f"127.0.0.1:{port}", "--root", str(root), *options],
        cwd=Path(__file__).parents[2],
    )
    client = None
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        where.mkdir()
        client = subprocess.Popen(
            ["sshfs", "-f", "-o", f"directport={port},dir_cache=no", "127.0.0.1:/", str(where)],
            stderr=subprocess.DEVNULL,
        )
        while not os.path.ismount(where):
            assert client.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield where
    finally:
        if client is not None:
            subprocess.run(["umount", "-l", str(where)], check=False, capture_output=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(5)
            client.kill()
            client.wait()
        server.kill()
        server.wait()


def test_all_that_sshfs_asks_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    data = os.urandom(3_000_001)
    (root / "big").write_bytes(data)
    (root / "link").symlink_to("sub")
    for number in range(2500):
        (root / "sub" / f"file{number}").touch()
    with mounted(root, tmp_path / "mount") as mount:
        assert (mount / "big").read_bytes() == data
        assert os.readlink(mount / "link") == "sub"
        assert len(os.listdir(mount / "sub")) == 2500
        (mount / "copy").write_bytes(data)
        assert (root / "copy").read_bytes() == data
        with open(mount / "copy", "ab") as file:
            file.write(b"more")
        assert (root / "copy").read_bytes() == data + b"more"
        with open(mount / "copy", "r+b") as file:
            file.truncate(10)
            file.flush()
            os.fsync(file.fileno())
        assert (root / "copy").read_bytes() == data[:10]
        os.chmod(mount / "copy", 0o640)
        os.utime(mount / "copy", (1, 2))
        assert (root / "copy").stat().st_mode & 0o777 == 0o640
        assert (root / "copy").stat().st_mtime == 2
        os.replace(mount / "copy", mount / "big")
        assert (root / "big").read_bytes() == data[:10]
        os.link(mount / "big", mount / "hard")
        assert (root / "hard").stat().st_nlink == 2
        os.symlink("big", mount / "new-link")
        assert os.readlink(root / "new-link") == "big"
        os.mkdir(mount / "made")
        os.rmdir(mount / "made")
        os.unlink(mount / "hard")
        assert not (root / "made").exists()
        assert not (root / "hard").exists()
        assert os.statvfs(mount).f_blocks > 0
        with pytest.raises(FileNotFoundError):
            (mount / "no").read_bytes()


def test_read_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("x")
    with mounted(root, tmp_path / "mount", "--read-only") as mount:
        assert (mount / "file").read_text() == "x"
        with pytest.raises(PermissionError):
            (mount / "file").write_text("y")
        with pytest.raises(PermissionError):
            os.unlink(mount / "file")
    assert (root / "file").read_text() == "x"
