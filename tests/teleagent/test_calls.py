from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleagent import calls, wholefiles
from teleagent.calls import Calls
from telewire import sftp
from telewire.sftp import Attrs, PacketSplitter, Reader


class Client:
    """Asks :class:`Calls` as a client on the wire would."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.calls = Calls(str(root), read_only=read_only)

    def ask(self, kind: int, *parts: bytes) -> tuple[int, Reader]:
        (packet,) = PacketSplitter().feed(sftp.request(kind, 42, *parts))
        (answer,) = PacketSplitter().feed(self.calls.answer(packet))
        reader = Reader(answer)
        found = reader.u8()
        assert reader.u32() == 42
        return found, reader

    def status(self, kind: int, *parts: bytes) -> tuple[int, int]:
        """Return a STATUS' code and the errno it means."""
        found, reader = self.ask(kind, *parts)
        assert found == sftp.STATUS
        code = reader.u32()
        return code, sftp.errno_of(code, reader.string()) if code else 0

    def done(self, kind: int, *parts: bytes) -> None:
        assert self.status(kind, *parts) == (sftp.OK, 0)

    def error(self, kind: int, *parts: bytes) -> int:
        code, number = self.status(kind, *parts)
        assert code not in (sftp.OK, sftp.EOF)
        return number

    def handle(self, kind: int, *parts: bytes) -> bytes:
        found, reader = self.ask(kind, *parts)
        assert found == sftp.HANDLE
        return sftp.pack_string(reader.string())

    def open(self, path: str, flags: int, attrs: Attrs | None = None) -> bytes:
        return self.handle(sftp.OPEN, name(path), struct.pack(">I", flags), (attrs or Attrs()).pack())

    def attrs(self, kind: int, *parts: bytes) -> Attrs:
        found, reader = self.ask(kind, *parts)
        assert found == sftp.ATTRS
        return reader.attrs()

    def names(self, kind: int, *parts: bytes) -> list[tuple[bytes, bytes, Attrs]]:
        found, reader = self.ask(kind, *parts)
        assert found == sftp.NAME
        return [(reader.string(), reader.string(), reader.attrs()) for _ in range(reader.u32())]

    def extended(self, extension: str, *parts: bytes) -> tuple[int, Reader]:
        return self.ask(sftp.EXTENDED, sftp.pack_string(extension.encode()), *parts)


def name(path: str) -> bytes:
    return sftp.pack_string(os.fsencode(path))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    mask = os.umask(0)
    made = Client(tmp_path)
    yield made
    made.calls.close()
    os.umask(mask)


READ, WRITE, CREAT, TRUNC, EXCL, APPEND = (
    sftp.OPEN_READ, sftp.OPEN_WRITE, sftp.OPEN_CREAT, sftp.OPEN_TRUNC, sftp.OPEN_EXCL, sftp.OPEN_APPEND,
)  # fmt: skip


def test_version_tells_the_extensions(client: Client) -> None:
    (answer,) = PacketSplitter().feed(client.calls.answer(bytes([sftp.INIT]) + struct.pack(">I", 3)))
    reader = Reader(answer)
    assert (reader.u8(), reader.u32()) == (sftp.VERSION, 3)
    told = {}
    while reader.rest:
        extension, version = reader.string(), reader.string()
        told[extension.decode()] = version
    assert told.keys() == {
        sftp.EXT_STATVFS, sftp.EXT_POSIX_RENAME, sftp.EXT_FSYNC, sftp.EXT_HARDLINK, sftp.EXT_LSETSTAT, sftp.EXT_LIMITS,
        sftp.EXT_READFILES,
    }  # fmt: skip


def test_write_and_read(client: Client, tmp_path: Path) -> None:
    handle = client.open("/new", READ | WRITE | CREAT | EXCL, Attrs(mode=0o666))
    client.done(sftp.WRITE, handle, struct.pack(">Q", 3), sftp.pack_string(b"def"))
    client.done(sftp.WRITE, handle, struct.pack(">Q", 0), sftp.pack_string(b"abc"))
    found, reader = client.ask(sftp.READ, handle, struct.pack(">QI", 1, 100))
    assert (found, reader.string()) == (sftp.DATA, b"bcdef")
    assert client.status(sftp.READ, handle, struct.pack(">QI", 6, 100))[0] == sftp.EOF
    client.done(sftp.EXTENDED, sftp.pack_string(sftp.EXT_FSYNC.encode()), handle)
    assert client.attrs(sftp.FSTAT, handle).size == 6
    client.done(sftp.CLOSE, handle)
    assert client.error(sftp.CLOSE, handle) == errno.EBADF
    assert client.error(sftp.READ, handle, struct.pack(">QI", 0, 1)) == errno.EBADF
    assert (tmp_path / "new").read_bytes() == b"abcdef"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666


def test_one_read_is_bounded(client: Client, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(sftp.MAX_DATA + 5))
    handle = client.open("/big", READ)
    _, reader = client.ask(sftp.READ, handle, struct.pack(">QI", 0, 0xFFFFFFFF))
    assert len(reader.string()) == sftp.MAX_DATA


def test_opening(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    tell = struct.Struct(">I").pack
    assert client.error(sftp.OPEN, name("/no"), tell(READ), Attrs().pack()) == errno.ENOENT
    assert client.error(sftp.OPEN, name("/file"), tell(WRITE | CREAT | EXCL), Attrs().pack()) == errno.EEXIST
    assert client.error(sftp.OPEN, name("/file/x"), tell(READ), Attrs().pack()) == errno.ENOTDIR
    handle = client.open("/file", WRITE | APPEND)
    client.done(sftp.WRITE, handle, struct.pack(">Q", 0), sftp.pack_string(b"6"))
    assert (tmp_path / "file").read_bytes() == b"123456"
    client.open("/file", WRITE | TRUNC)
    assert (tmp_path / "file").read_bytes() == b""
    client.open("/made", WRITE | CREAT)
    assert (tmp_path / "made").stat().st_mode & 0o777 == calls.FILE_MODE


def test_a_fifo_does_not_block(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    client.open("/fifo", READ)
    assert client.error(sftp.SETSTAT, name("/fifo"), Attrs(size=0).pack()) == errno.EINVAL


def test_stat_follows_and_lstat_does_not(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to("/file")
    assert client.attrs(sftp.STAT, name("/link")) == Attrs.of((tmp_path / "file").stat())
    assert stat.S_ISLNK(client.attrs(sftp.LSTAT, name("/link")).mode or 0)
    assert client.error(sftp.STAT, name("/no")) == errno.ENOENT
    assert client.attrs(sftp.STAT, name("")).is_directory


def test_setting_attributes(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    client.done(sftp.SETSTAT, name("/file"), Attrs(size=2, mode=0o100604, atime=5, mtime=6).pack())
    found = file.stat()
    assert (found.st_size, found.st_mode & 0o7777, found.st_atime, found.st_mtime) == (2, 0o604, 5, 6)
    handle = client.open("/file", READ | WRITE)
    client.done(sftp.FSETSTAT, handle, Attrs(size=4, mode=0o600).pack())
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (4, 0o600)
    assert client.error(sftp.SETSTAT, name("/no"), Attrs(mode=0).pack()) == errno.ENOENT


@pytest.mark.root
def test_owners_and_links_own_attributes(client: Client, tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to("file")
    client.done(sftp.SETSTAT, name("/file"), Attrs(uid=1234, gid=4321, mode=0o4755).pack())
    assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o7777) == (1234, 4321, 0o4755)
    lsetstat = sftp.pack_string(sftp.EXT_LSETSTAT.encode())
    client.done(sftp.EXTENDED, lsetstat, name("/link"), Attrs(uid=77, gid=78, atime=1, mtime=2).pack())
    assert (link.lstat().st_uid, link.lstat().st_gid, link.lstat().st_mtime) == (77, 78, 2)
    assert file.stat().st_uid == 1234


def test_listing_carries_attributes_and_comes_in_parts(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LISTING_ENTRIES", 10)
    for number in range(25):
        (tmp_path / f"f{number}").write_bytes(b"x" * number)
    (tmp_path / os.fsdecode(b"\xff")).symlink_to("nowhere")
    handle = client.handle(sftp.OPENDIR, name("/"))
    parts = [client.names(sftp.READDIR, handle) for _ in range(3)]
    assert client.status(sftp.READDIR, handle)[0] == sftp.EOF
    assert [len(part) for part in parts] == [10, 10, 8]
    found = {entry: attrs for part in parts for entry, _, attrs in part}
    assert found.keys() == {b".", b"..", b"\xff", *(b"f%d" % number for number in range(25))}
    assert found[b"f7"] == Attrs.of((tmp_path / "f7").stat())
    assert stat.S_ISLNK(found[b"\xff"].mode or 0)
    line = next(long for part in parts for entry, long, _ in part if entry == b"f7").decode()
    assert line.startswith("-rw")
    assert line.endswith(" f7")
    client.done(sftp.CLOSE, handle)


def test_handles_of_the_wrong_kind(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert client.error(sftp.OPENDIR, name("/file")) == errno.ENOTDIR
    assert client.error(sftp.READDIR, client.open("/file", READ)) == errno.ENOTDIR
    assert client.error(sftp.READ, client.handle(sftp.OPENDIR, name("/")), struct.pack(">QI", 0, 1)) == errno.EISDIR


def test_making_and_removing(client: Client, tmp_path: Path) -> None:
    client.done(sftp.MKDIR, name("/d"), Attrs(mode=0o2775).pack())
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o775
    assert client.error(sftp.MKDIR, name("/d"), Attrs().pack()) == errno.EEXIST
    (tmp_path / "d" / "f").touch()
    assert client.error(sftp.RMDIR, name("/d")) == errno.ENOTEMPTY
    assert client.error(sftp.REMOVE, name("/d")) == errno.EISDIR
    client.done(sftp.REMOVE, name("/d/f"))
    client.done(sftp.RMDIR, name("/d/"))
    assert list(tmp_path.iterdir()) == []
    for path in ("/", "/..", ""):
        assert client.error(sftp.RMDIR, name(path)) == errno.EINVAL


def test_renaming(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert client.error(sftp.RENAME, name("/a"), name("/b")) == errno.EEXIST
    client.done(sftp.EXTENDED, sftp.pack_string(sftp.EXT_POSIX_RENAME.encode()), name("/a"), name("/b"))
    client.done(sftp.RENAME, name("/b"), name("/c"))
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("c", "a")]


def test_links(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    client.done(sftp.SYMLINK, name("../outside"), name("/link"))
    assert os.readlink(tmp_path / "link") == "../outside"
    assert [entry[0] for entry in client.names(sftp.READLINK, name("/link"))] == [b"../outside"]
    assert client.error(sftp.READLINK, name("/file")) == errno.EINVAL
    client.done(sftp.EXTENDED, sftp.pack_string(sftp.EXT_HARDLINK.encode()), name("/file"), name("/hard"))
    assert (tmp_path / "hard").stat().st_ino == (tmp_path / "file").stat().st_ino


def test_realpath(client: Client) -> None:
    assert client.names(sftp.REALPATH, name("."))[0][0] == b"/"
    assert client.names(sftp.REALPATH, name("/a/../b"))[0][0] == b"/b"


def test_statvfs_and_limits(client: Client, tmp_path: Path) -> None:
    found, reader = client.extended(sftp.EXT_STATVFS, name("/"))
    assert found == sftp.EXTENDED_REPLY
    values = [reader.u64() for _ in range(11)]
    expected = os.statvfs(tmp_path)
    assert (values[0], values[1], values[2], values[10]) == (
        expected.f_bsize, expected.f_frsize, expected.f_blocks, expected.f_namemax,
    )  # fmt: skip
    found, reader = client.extended(sftp.EXT_LIMITS)
    assert [reader.u64() for _ in range(4)] == [sftp.MAX_REQUEST, sftp.MAX_DATA, sftp.MAX_DATA, calls.MOST_HANDLES]


def test_whole_files(client: Client, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(b"x" * 11)
    (tmp_path / "empty").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("small")
    found, reader = client.extended(sftp.EXT_READFILES, name("/"), struct.pack(">II", 10, 1000))
    assert found == sftp.EXTENDED_REPLY
    entries = {entry.name: entry for entry in reader.file_entries()}
    assert {key: (entry.error, entry.content) for key, entry in entries.items()} == {
        b"small": (0, b"small"), b"large": (errno.EFBIG, None), b"empty": (0, b""), b"sub": (errno.EINVAL, None),
        b"link": (errno.EINVAL, None),
    }  # fmt: skip
    assert entries[b"large"].attrs == Attrs.of((tmp_path / "large").stat())
    assert stat.S_ISLNK(entries[b"link"].attrs.mode or 0)
    _, reader = client.extended(sftp.EXT_READFILES, name("/"), struct.pack(">II", 10, 3))
    assert [e.content for e in reader.file_entries() if e.name in (b"small", b"empty")].count(None) == 1
    assert (
        client.error(sftp.EXTENDED, sftp.pack_string(b"readfiles@telepresence.io"), name("/no"), bytes(8))
        == errno.ENOENT
    )


def test_read_only_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    client = Client(tmp_path, read_only=True)
    tell = struct.Struct(">I").pack
    handle = client.open("/f", READ)
    extended = {
        key: sftp.pack_string(key.encode()) for key in (sftp.EXT_POSIX_RENAME, sftp.EXT_HARDLINK, sftp.EXT_LSETSTAT)
    }
    for kind, parts in (
        (sftp.OPEN, (name("/f"), tell(WRITE), Attrs().pack())),
        (sftp.OPEN, (name("/f"), tell(READ | TRUNC), Attrs().pack())),
        (sftp.OPEN, (name("/g"), tell(READ | CREAT), Attrs().pack())),
        (sftp.WRITE, (handle, bytes(8), sftp.pack_string(b"y"))),
        (sftp.SETSTAT, (name("/f"), Attrs(mode=0).pack())),
        (sftp.FSETSTAT, (handle, Attrs(size=0).pack())),
        (sftp.REMOVE, (name("/f"),)),
        (sftp.MKDIR, (name("/d"), Attrs().pack())),
        (sftp.RMDIR, (name("/d"),)),
        (sftp.RENAME, (name("/f"), name("/g"))),
        (sftp.SYMLINK, (name("x"), name("/l"))),
        (sftp.EXTENDED, (extended[sftp.EXT_POSIX_RENAME], name("/f"), name("/g"))),
        (sftp.EXTENDED, (extended[sftp.EXT_HARDLINK], name("/f"), name("/g"))),
        (sftp.EXTENDED, (extended[sftp.EXT_LSETSTAT], name("/f"), Attrs(mode=0).pack())),
    ):
        assert client.status(kind, *parts) == (sftp.PERMISSION_DENIED, errno.EROFS), (kind, parts)
    _, reader = client.ask(sftp.READ, handle, struct.pack(">QI", 0, 9))
    assert reader.string() == b"x"
    _, reader = client.extended(sftp.EXT_STATVFS, name("/"))
    assert [reader.u64() for _ in range(11)][9] & 1
    client.calls.close()
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


def test_malformed_requests_are_answered(client: Client) -> None:
    assert client.status(77)[0] == sftp.UNSUPPORTED
    assert client.status(sftp.EXTENDED, sftp.pack_string(b"no@such"))[0] == sftp.UNSUPPORTED
    assert client.status(sftp.OPEN, b"\0\0")[0] == sftp.BAD_MESSAGE
    assert client.error(sftp.STAT, name("/a\0b")) == errno.EINVAL
    handle = client.open("/f", WRITE | CREAT)
    assert client.status(sftp.WRITE, handle, b"\xff" * 8, sftp.pack_string(b"x"))[0] == sftp.BAD_MESSAGE


def test_handles_are_bounded_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_HANDLES", 3)
    (tmp_path / "f").touch()
    before = len(os.listdir("/proc/self/fd"))
    client = Client(tmp_path)
    for _ in range(3):
        client.open("/f", READ)
    assert client.error(sftp.OPENDIR, name("/")) == errno.EMFILE
    client.calls.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_too_large_for_whole_files_says_so(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wholefiles, "LISTING_BYTES", 100)
    (tmp_path / "long").write_bytes(b"x" * 200)  # contents do not count
    assert client.extended(sftp.EXT_READFILES, name("/"), struct.pack(">II", 1000, 1000))[0] == sftp.EXTENDED_REPLY
    for number in range(3):
        (tmp_path / f"f{number}").touch()
    request = (sftp.pack_string(sftp.EXT_READFILES.encode()), name("/"), struct.pack(">II", 1000, 1000))
    assert client.error(sftp.EXTENDED, *request) == errno.E2BIG


def test_a_file_whose_size_says_nothing_has_no_content() -> None:
    directory = os.open("/proc/sys/kernel", os.O_RDONLY | os.O_DIRECTORY)
    try:
        packed = b"".join(wholefiles.read_directory(directory, 1000, 1 << 20))
    finally:
        os.close(directory)
    count = len(os.listdir("/proc/sys/kernel"))
    entries = {entry.name: entry for entry in Reader(struct.pack(">I", count) + packed).file_entries()}
    assert entries[b"ostype"].error == errno.EAGAIN
