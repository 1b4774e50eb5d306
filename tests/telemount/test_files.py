"""Real FUSE mounts of real servers: what programs do with files, compared byte by byte with the served directory."""

from __future__ import annotations

import errno
import filecmp
import itertools
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from telemount import mounts
from tests.telemount.conftest import Agent, Mount, Proxy, free_port, until

pytestmark = pytest.mark.root

Served = tuple[int, str]
Mounter = Callable[..., Path]


@pytest.fixture
def there(served: Served, mount: Mounter) -> Path:
    """Where ``root`` is mounted."""
    return mount(served[0], dir=served[1])


def test_reading(root: Path, there: Path) -> None:
    for size in (0, 1, 4095, 131072, 261119, 261120, 261121, 1 << 20, 5_000_003):
        (root / f"f{size}").write_bytes(os.urandom(size))
    for path in sorted(root.iterdir()):
        assert (there / path.name).read_bytes() == path.read_bytes()
    data = (root / "f5000003").read_bytes()
    with open(there / "f5000003", "rb", buffering=0) as file:
        for offset in (4_999_000, 0, 2_000_000, 261_000, 2_999_999, 5_000_000):
            assert os.pread(file.fileno(), 10_000, offset) == data[offset : offset + 10_000]


def test_writing(root: Path, there: Path) -> None:
    data = os.urandom(5_000_003)
    (there / "new").write_bytes(data)
    assert (root / "new").read_bytes() == data
    with open(there / "new", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"middle", 2_000_000)
        assert (
            os.pread(file.fileno(), 10, 1_999_998) == data[1_999_998:2_000_000] + b"middle" + data[2_000_006:2_000_008]
        )
        os.fsync(file.fileno())
        assert (root / "new").read_bytes()[2_000_000:2_000_006] == b"middle"
        os.ftruncate(file.fileno(), 100)
        assert os.fstat(file.fileno()).st_size == 100
        os.ftruncate(file.fileno(), 200)
    assert (root / "new").read_bytes() == data[:100] + bytes(100)
    (there / "new").write_bytes(b"short")
    assert (root / "new").read_bytes() == b"short"


def test_appending(root: Path, there: Path) -> None:
    (root / "log").write_bytes(b"1\n")
    with open(there / "log", "ab", buffering=0) as file:
        file.write(b"2\n")
        os.fsync(file.fileno())
        with open(root / "log", "ab") as other:
            other.write(b"theirs\n")
        file.write(b"3\n")
    assert (root / "log").read_bytes() == b"1\n2\ntheirs\n3\n"
    assert (there / "log").read_bytes() == b"1\n2\ntheirs\n3\n"


def test_sparse(root: Path, there: Path) -> None:
    with open(there / "sparse", "wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
    assert (root / "sparse").stat().st_size == (10 << 20) + 3
    assert (root / "sparse").stat().st_blocks * 512 < 1 << 20
    assert filecmp.cmp(root / "sparse", there / "sparse", shallow=False)


def test_mapping(root: Path, there: Path) -> None:
    (root / "map").write_bytes(bytes(100_000))
    with open(there / "map", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[50_000:50_005] = b"hello"
        mapped.flush()
        assert (root / "map").read_bytes()[50_000:50_005] == b"hello"
    with open(there / "map", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[49_999:50_006] == b"\0hello\0"


def test_names_and_links(root: Path, there: Path) -> None:
    names = ["plain", "ünïcödé 文件", "with\nline", " ", "x" * 255, os.fsdecode(b"not\xff\xfeutf8")]
    for name in names:
        (there / name).write_text(name, errors="surrogateescape")
    assert sorted(os.listdir(there)) == sorted(names) == sorted(os.listdir(root))
    assert (there / names[5]).read_bytes() == b"not\xff\xfeutf8"
    for target in ("plain", "/etc/absolute", "../outside"):
        os.symlink(target, there / "link")
        assert os.readlink(there / "link") == target == os.readlink(root / "link")
        os.unlink(there / "link")
    os.symlink("plain", there / "link")
    assert (there / "link").read_text() == "plain"
    os.utime(there / "link", (5, 6), follow_symlinks=False)
    assert os.lstat(root / "link").st_mtime == 6
    assert os.stat(root / "plain").st_mtime != 6
    os.link(there / "plain", there / "hard")
    assert (root / "hard").samefile(root / "plain")
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        (there / ("x" * 256)).touch()


def test_renaming(root: Path, there: Path) -> None:
    (there / "a").write_text("a")
    (there / "b").write_text("b")
    os.replace(there / "a", there / "b")
    assert (there / "b").read_text() == "a"
    assert sorted(os.listdir(root)) == ["b"] == sorted(os.listdir(there))
    (there / "dir" / "sub").mkdir(parents=True)
    (there / "dir" / "sub" / "f").write_text("f")
    assert os.listdir(there / "dir") == ["sub"]
    os.rename(there / "dir", there / "moved")
    assert (there / "moved" / "sub" / "f").read_text() == "f"
    assert not (there / "dir").exists()
    with open(there / "b", "r+") as file:
        os.rename(there / "b", there / "c")
        file.write("X")
    assert (root / "c").read_text() == "X"
    subprocess.run(["mv", "-n", there / "c", there / "moved"], check=True)
    assert (root / "moved" / "c").read_text() == "X"


def test_errors(root: Path, there: Path) -> None:
    (there / "dir").mkdir()
    (there / "dir" / "f").touch()
    (there / "f").touch()
    for call, number in (
        (lambda: os.stat(there / "no"), errno.ENOENT),
        (lambda: os.mkdir(there / "dir"), errno.EEXIST),
        (lambda: os.rmdir(there / "dir"), errno.ENOTEMPTY),
        (lambda: os.rename(there / "f", there / "dir"), errno.EISDIR),
        (lambda: os.listdir(there / "f"), errno.ENOTDIR),
        (lambda: os.symlink("x", there / "f"), errno.EEXIST),
        (lambda: os.close(os.open(there / "f", os.O_CREAT | os.O_EXCL)), errno.EEXIST),
        (lambda: os.mkfifo(there / "fifo"), errno.EPERM),
        (lambda: os.getxattr(there / "f", "user.x"), errno.EOPNOTSUPP),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
            call()
        assert caught.value.errno == number
    assert sorted(os.listdir(root)) == ["dir", "f"]


def test_attributes(root: Path, there: Path) -> None:
    (there / "f").write_text("x")
    os.chmod(there / "f", 0o640)
    os.utime(there / "f", (1_000, 2_000))
    os.chown(there / "f", 1234, -1)
    found, real = (there / "f").stat(), (root / "f").stat()
    assert (found.st_mode, found.st_uid, found.st_gid, found.st_size) == (0o100640, 1234, real.st_gid, 1)
    assert (found.st_atime, found.st_mtime) == (1_000, 2_000) == (real.st_atime, real.st_mtime)
    assert real.st_uid == 1234
    os.utime(there / "f")
    assert abs((root / "f").stat().st_mtime - time.time()) < 5
    before = os.umask(0o027)
    try:
        (there / "g").touch(0o666)
        (there / "d").mkdir(0o777)
    finally:
        os.umask(before)
    assert (root / "g").stat().st_mode & 0o7777 == 0o640
    assert (root / "d").stat().st_mode & 0o7777 == 0o750
    assert os.statvfs(there).f_blocks == os.statvfs(root).f_blocks


def test_unlinked_while_open(root: Path, there: Path) -> None:
    (root / "f").write_bytes(b"content")
    with open(there / "f", "r+b", buffering=0) as file:
        os.unlink(there / "f")
        assert not (there / "f").exists()
        assert file.read() == b"content"
        file.write(b" more")
        assert os.fstat(file.fileno()).st_size == 12
        assert os.pread(file.fileno(), 100, 0) == b"content more"
    until(lambda: os.listdir(root) == [])
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"x" * 10_000)
        file.seek(0)
        assert file.read() == b"x" * 10_000
    until(lambda: os.listdir(root) == [])


def test_a_large_directory(root: Path, there: Path) -> None:
    for number in range(2_000):
        (root / f"f{number}").write_bytes(b"%d" % number)
    assert len(os.listdir(there)) == 2_000
    assert {entry.name: entry.stat().st_size for entry in os.scandir(there)} == {
        f"f{number}": len(str(number)) for number in range(2_000)
    }
    for number in range(2_000):
        assert (there / f"f{number}").read_bytes() == b"%d" % number
    shutil.copytree(there, there / "copy", ignore=shutil.ignore_patterns("f?", "f??", "f???", "f1[0-7]*"))
    assert len(os.listdir(root / "copy")) == 200
    shutil.rmtree(there / "copy")
    assert not (root / "copy").exists()


def test_what_the_other_side_changes_is_seen(root: Path, there: Path) -> None:
    for number in range(20):
        (root / f"f{number}").write_text("old")
    assert [(there / f"f{number}").read_text() for number in range(20)] == ["old"] * 20
    for number in range(20):
        (root / f"f{number}").write_text("new")
    (root / "another").write_text("file")
    (root / "f0").unlink()
    time.sleep(1.05)
    assert [(there / f"f{number}").read_text() for number in range(1, 20)] == ["new"] * 19
    assert (there / "another").read_text() == "file"
    assert not (there / "f0").exists()


def test_without_cache_it_is_seen_at_once(root: Path, served: Served, mount: Mounter) -> None:
    there = mount(served[0], dir=served[1], cache=0)
    for number in range(20):
        (root / "f").write_text(f"{number}")
        assert (there / "f").read_text() == f"{number}"
        assert os.listdir(there) == ["f"]


def test_two_open_files_of_one_file_agree(root: Path, there: Path) -> None:
    for number in range(10):
        (root / f"f{number}").write_bytes(b"a" * 1000)
    for number in range(10):
        (there / f"f{number}").read_bytes()
    with open(there / "f9", "rb", buffering=0) as reader, open(there / "f9", "r+b", buffering=0) as writer:
        assert reader.read(10) == b"a" * 10
        writer.write(b"b" * 1000)
        reader.seek(0)
        assert reader.read() == b"b" * 1000
        os.ftruncate(writer.fileno(), 5)
        assert os.pread(reader.fileno(), 100, 0) == b"b" * 5


def test_many_at_once(root: Path, there: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            data = os.urandom(300_000 + number)
            for turn in range(5):
                path = there / f"t{number}-{turn}"
                path.write_bytes(data)
                assert path.read_bytes() == data
                os.rename(path, there / f"u{number}-{turn}")
                assert (root / f"u{number}-{turn}").read_bytes() == data
                os.listdir(there)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(os.listdir(there)) == 60


def test_as_programs_do_it(root: Path, there: Path) -> None:
    source = Path(__file__).parents[2] / "telewire"
    subprocess.run(["cp", "-a", str(source), str(there / "copy")], check=True)
    subprocess.run(["diff", "-r", str(source), str(there / "copy")], check=True)
    subprocess.run(["diff", "-r", str(source), str(root / "copy")], check=True)
    subprocess.run(["sh", "-c", "echo one > f; echo two >> f; sed -i s/one/three/ f; test -r f"], cwd=there, check=True)
    assert (root / "f").read_text() == "three\ntwo\n"
    (root / "run").write_text("#!/bin/sh\necho ran\n")
    (root / "run").chmod(0o755)
    assert subprocess.run([str(there / "run")], check=True, capture_output=True).stdout == b"ran\n"


def test_presented_as_asked_for(root: Path, agent: Agent, mount: Mounter) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "f").write_text("x")
    (root / "f").touch(0o600)
    there = mount(agent.port, dir="/sub", uid=1000, gid=1001, umask=0o027)
    found = (there / "f").stat()
    assert (found.st_uid, found.st_gid, found.st_mode) == (1000, 1001, 0o100750)
    assert os.listdir(there) == ["f"]
    os.chown(there / "f", 1000, 1001)
    with pytest.raises(PermissionError):
        os.chown(there / "f", 0, 0)
    assert (root / "sub" / "f").stat().st_uid == os.getuid()


def test_any_user_may(root: Path, there: Path) -> None:
    (root / "private").write_text("secret")
    (root / "private").chmod(0o600)
    directory = os.open(there, os.O_PATH)  # the way to it is closed for others, pytest sees to that
    try:
        found = subprocess.run(
            ["sh", "-c", f"cd /proc/self/fd/{directory} && cat private && echo x > theirs"],
            user=65534, check=False, capture_output=True, pass_fds=[directory],
        )  # fmt: skip
    finally:
        os.close(directory)
    assert (found.stdout, found.stderr) == (b"secret", b"")
    assert (root / "theirs").read_text() == "x\n"


def test_read_only(root: Path, agent: Agent, mount: Mounter) -> None:
    (root / "f").write_text("x")
    there = mount(agent.port, ro=True)
    assert (there / "f").read_text() == "x"
    for call in (lambda: (there / "f").write_text("y"), lambda: os.unlink(there / "f"), lambda: os.mkdir(there / "d")):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            call()


def test_files_whose_size_tells_nothing(mount: Mounter) -> None:
    server = Agent(Path("/proc"))
    try:
        there = mount(server.port)
        assert (there / "version").read_bytes() == Path("/proc/version").read_bytes()
        assert (there / "version").stat().st_size == 0
        symbols = (there / "cpuinfo").read_bytes()
        assert len(symbols.splitlines()) == len(Path("/proc/cpuinfo").read_bytes().splitlines())
        filesystems = there / "filesystems"
        assert [filesystems.read_bytes() for _ in range(5)] == [Path("/proc/filesystems").read_bytes()] * 5
    finally:
        server.close()


def test_nobody_answers(tmp_path: Path) -> None:
    port = free_port()
    began = time.monotonic()
    made = Mount(tmp_path / "mount", port)
    made.close()
    assert made.answer == f"error cannot reach the SFTP server at 127.0.0.1:{port}: Connection refused; is it running?"
    assert time.monotonic() - began < 5


def test_no_such_directory(root: Path, agent: Agent, tmp_path: Path) -> None:
    (root / "file").touch()
    for directory, why in (("/no", "has no /no: No such file"), ("/file", "no directory")):
        made = Mount(tmp_path / "mount", agent.port, dir=directory)
        made.close()
        assert made.answer.startswith("error ")
        assert why in made.answer
        assert str(made.path) not in mounts.mounted()


def test_a_listing_tells_the_kernel_of_every_file(root: Path, agent: Agent, tmp_path: Path) -> None:
    for number in range(3000):
        (root / f"f{number:04}").write_bytes(b"x" * number)
    made = Mount(tmp_path / "mount", agent.port, cache=60)
    try:
        sizes = {name: int(name[1:]) for name in os.listdir(made.path)}
        assert len(sizes) == 3000
        made.process.send_signal(signal.SIGSTOP)
        script = "import os, sys; print(*(os.stat(line.rstrip()).st_size for line in sys.stdin))"
        paths = "".join(f"{made.path}/{name}\n" for name in sizes)
        told = subprocess.run(
            [sys.executable, "-c", script], input=paths, capture_output=True, text=True, timeout=30, check=True
        )
        assert [int(size) for size in told.stdout.split()] == list(sizes.values())
    finally:
        made.process.send_signal(signal.SIGCONT)
        made.close()


def test_a_change_is_not_undone_by_a_listing_from_before(root: Path, agent: Agent, mount: Mounter) -> None:
    for number in range(3000):
        (root / f"f{number:04}").write_bytes(b"x")
    there = mount(agent.port, cache=60)
    with os.scandir(there) as entries:
        names = [entry.name for entry in itertools.islice(entries, 21)]
        changed = [path.name for path in root.glob("*7") if path.name not in names]
        for name in changed:
            (there / name).write_bytes(b"longer")
        names += [entry.name for entry in entries]
    assert sorted(names) == sorted(path.name for path in root.iterdir())
    assert {os.stat(there / name).st_size for name in changed} == {6}


def test_latency_is_paid_once_for_many_files(root: Path, agent: Agent, mount: Mounter) -> None:
    for number in range(300):
        (root / f"f{number:03}").write_bytes(b"%d" % number)
    slow = Proxy(agent.port, delay=0.02)
    try:
        there = mount(slow.port)
        began = time.monotonic()
        assert [path.read_bytes() for path in sorted(there.iterdir())] == [b"%d" % number for number in range(300)]
        # A round trip takes 40 ms here: 12 s if each file cost only one.
        assert time.monotonic() - began < 4
    finally:
        slow.close()
