from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telewire import sftp
from telewire.sftp import Attrs, FileEntry, PacketSplitter, Reader, SftpError

U32 = st.integers(0, 0xFFFFFFFF)
ATTRS = st.builds(
    lambda size, owner, mode, times: Attrs(size, *(owner or (None, None)), mode, *(times or (None, None))),  # type: ignore[misc]
    st.none() | st.integers(0, 2**64 - 1),
    st.none() | st.tuples(U32, U32),
    st.none() | U32,
    st.none() | st.tuples(U32, U32),
)


@given(ATTRS)
def test_attributes_come_back(attrs: Attrs) -> None:
    reader = Reader(attrs.pack() + b"rest")
    assert reader.attrs() == attrs
    assert bytes(reader.rest) == b"rest"


def test_attributes_on_the_wire() -> None:
    assert Attrs(size=1, mode=0o644).pack() == bytes.fromhex("00000005 0000000000000001 000001a4")
    assert Attrs(uid=1).pack() == bytes(4), "a user without a group is not told"


def test_unknown_extended_attributes_are_skipped() -> None:
    data = struct.pack(">II", sftp.ATTR_EXTENDED, 1) + sftp.pack_string(b"a@b") + sftp.pack_string(b"v") + b"rest"
    reader = Reader(data)
    assert reader.attrs() == Attrs()
    assert bytes(reader.rest) == b"rest"


def test_attributes_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    os.utime(file, (-5, 2**33))
    attrs = Attrs.of(file.stat())
    assert (attrs.size, attrs.atime, attrs.mtime) == (3, 0, 0xFFFFFFFF)
    assert not attrs.is_directory
    assert Attrs.of(tmp_path.stat()).is_directory


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1))
def test_packets_come_back_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(sftp.packet(body[0], body[1:]) for body in bodies)
    splitter, found, position = PacketSplitter(), [], 0
    while position < len(stream):
        size = cuts[position % len(cuts)]
        found += splitter.feed(stream[position : position + size])
        position += size
    assert found == bodies


def test_the_longest_packet_is_let_through_and_no_longer_one() -> None:
    splitter = PacketSplitter(10)
    assert splitter.feed(sftp.packet(1, b"x" * 9)) == [b"\1" + b"x" * 9]
    with pytest.raises(SftpError, match="11 bytes"):
        splitter.feed(struct.pack(">I", 11))


@pytest.mark.parametrize("stream", [b"HTTP/1.1 400 Bad", bytes(4)])
def test_what_is_no_sftp_is_told_at_once(stream: bytes) -> None:
    with pytest.raises(SftpError, match="does not speak SFTP"):
        PacketSplitter().feed(stream)


@pytest.mark.parametrize("take", [Reader.u8, Reader.u32, Reader.u64, Reader.string, Reader.attrs, Reader.file_entries])
def test_short_packets_are_errors(take: object) -> None:
    with pytest.raises(SftpError):
        take(Reader(b""))  # type: ignore[operator]
    with pytest.raises(SftpError):
        Reader(struct.pack(">I", 5) + b"1234").string()


def test_requests_on_the_wire() -> None:
    assert sftp.request(sftp.CLOSE, 7, sftp.pack_string(b"h")) == bytes.fromhex("0000000a 04 00000007 00000001 68")


def test_file_entries_come_back() -> None:
    entries = [
        FileEntry(b"a", 0, Attrs(size=0, mode=0o100644), b""),
        FileEntry(b"b", errno.EFBIG, Attrs(size=9)),
        FileEntry(b"\xff", 0, Attrs(), b"content"),
    ]
    packed = struct.pack(">I", len(entries)) + b"".join(entry.pack() for entry in entries)
    assert Reader(packed).file_entries() == entries


@given(st.integers(1, 200))
def test_any_errno_survives(number: int) -> None:
    status, text = sftp.status_of(number)
    assert status not in (sftp.OK, sftp.EOF)
    assert sftp.errno_of(status, text) == number


def test_errnos_of_foreign_servers() -> None:
    assert sftp.errno_of(sftp.NO_SUCH_FILE, b"No such file") == errno.ENOENT
    assert sftp.errno_of(sftp.PERMISSION_DENIED, b"") == errno.EACCES
    assert sftp.errno_of(sftp.FAILURE, b"errno=x") == errno.EIO
    assert sftp.errno_of(99, b"") == errno.EIO


def test_statuses_that_stock_clients_understand() -> None:
    assert sftp.status_of(errno.ENOENT)[0] == sftp.NO_SUCH_FILE
    assert sftp.status_of(errno.EROFS) == (sftp.PERMISSION_DENIED, b"errno=30 Read-only file system")
    assert sftp.status_of(errno.ENOTEMPTY)[0] == sftp.FAILURE
