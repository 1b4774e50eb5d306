from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from teleagent import files

Opener = Callable[[int, bytes, int, int], int]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    """A root with links of every kind, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    top = tmp_path / "root"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "file").write_text("file")
    (top / "sub" / "file").write_text("sub")
    for link, target in {
        "out": "../secret", "absolute": "/file", "far": "/../../../secret", "up": "sub/../file", "loop": "loop",
        "directory": "/sub", "chain": "directory/deep/../file", "dangling": "/nothing",
    }.items():  # fmt: skip
        (top / link).symlink_to(target)
    (top / "sub" / "climb").symlink_to("../../../secret")
    descriptor = os.open(top, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=[files.openat2, files.walk])
def opener(request: pytest.FixtureRequest) -> Opener:
    chosen: Opener = request.param
    return chosen


def content(opener: Opener, root: int, path: bytes) -> bytes:
    descriptor = opener(root, path, os.O_RDONLY, 0)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/file", b"file"), (b"file", b"file"), (b"//sub//file", b"sub"), (b"/sub/./deep/../file", b"sub"),
        (b"/absolute", b"file"), (b"/up", b"file"), (b"/chain", b"sub"), (b"/directory/file", b"sub"),
        (b"/../../file", b"file"),
    ],
)  # fmt: skip
def test_paths_below_the_root(opener: Opener, root: int, path: bytes, expected: bytes) -> None:
    assert content(opener, root, path) == expected


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"/out", errno.ENOENT), (b"/far", errno.ENOENT), (b"/sub/climb", errno.ENOENT), (b"/../secret", errno.ENOENT),
        (b"/loop", errno.ELOOP), (b"/dangling", errno.ENOENT), (b"/file/x", errno.ENOTDIR), (b"/no/file", errno.ENOENT),
        (b"/file\0/../x", errno.EINVAL),
    ],
)  # fmt: skip
def test_nothing_leads_out(opener: Opener, root: int, path: bytes, number: int) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared
        opener(root, path, os.O_RDONLY, 0)
    assert caught.value.errno == number


def test_the_root_itself_and_links_themselves(opener: Opener, root: int) -> None:
    for path in (b"/", b"", b"..", b"/sub/.."):
        descriptor = opener(root, path, os.O_RDONLY | os.O_DIRECTORY, 0)
        assert os.path.samestat(os.fstat(descriptor), os.fstat(root))
        os.close(descriptor)
    descriptor = opener(root, b"/out", os.O_PATH | os.O_NOFOLLOW, 0)
    assert os.readlink(b"", dir_fd=descriptor) == b"../secret"
    os.close(descriptor)


def test_creating_follows_a_link_inside_only(opener: Opener, root: int, tmp_path: Path) -> None:
    os.close(opener(root, b"/dangling", os.O_WRONLY | os.O_CREAT, 0o600))
    assert (tmp_path / "root" / "nothing").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        opener(root, b"/out", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def test_walk_leaves_no_descriptor_open(root: int) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for path in (b"/chain", b"/loop", b"/file/x", b"/sub/deep/../../sub/file"):
        try:
            os.close(files.walk(root, path, os.O_RDONLY, 0))
        except OSError:
            continue
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_tree_walks_where_openat2_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("here")
    tried = []

    def forbidden(root: int, path: bytes, flags: int, mode: int = 0) -> int:
        tried.append(path)
        raise PermissionError(errno.EPERM, "seccomp")

    monkeypatch.setattr(files, "openat2", forbidden)
    tree = files.Tree(str(tmp_path))
    descriptor = tree.open(b"/file", os.O_RDONLY)
    assert os.read(descriptor, 10) == b"here"
    os.close(descriptor)
    tree.close()
    assert tried == [b"/"]


def test_real_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("/sub")
    tree = files.Tree(str(tmp_path))
    assert tree.real(b"") == b"/"
    assert tree.real(b"/link/../sub/.") == b"/sub"
    assert tree.real(b"/link") == b"/sub"
    assert tree.real(b"/nothing/../new") == b"/new"
    tree.close()
    whole = files.Tree("/")
    (tmp_path / "other").symlink_to("sub")
    assert whole.real(os.fsencode(tmp_path / "other")) == os.fsencode(os.path.realpath(tmp_path / "sub"))
    assert whole.real(b"/..") == b"/"
    whole.close()


@pytest.mark.parametrize("with_renameat2", [True, False])
def test_rename_new_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_renameat2: bool
) -> None:
    if not with_renameat2:
        monkeypatch.setattr(files, "_libc", object())
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    directory = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(FileExistsError):
            files.rename_new(b"a", b"b", directory, directory)
        assert (tmp_path / "b").read_text() == "b"
        files.rename_new(b"a", b"c", directory, directory)
        assert (tmp_path / "c").read_text() == "a"
    finally:
        os.close(directory)


def test_describe(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert files.describe(str(tmp_path)) == {
        "path": str(tmp_path), "exists": True, "directory": True, "writable": True, "device": tmp_path.stat().st_dev,
    }  # fmt: skip
    assert files.describe(str(tmp_path / "f"))["directory"] is False
    assert files.describe(str(tmp_path / "g"))["exists"] is False
    assert files.describe("/proc/x\0")["exists"] is False


@pytest.mark.root
def test_describe_tells_a_read_only_mount(tmp_path: Path) -> None:
    code = f'from teleagent.files import describe; print(describe("{tmp_path}")["writable"])'
    script = f"mount -t tmpfs -o ro none {tmp_path} && exec {sys.executable} -c '{code}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout == "False\n"
