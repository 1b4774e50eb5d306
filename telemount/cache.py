"""What is known of the remote files for a short time: attributes, listings, contents of small files."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from telewire.sftp import Attrs

MOST_ATTRS = 100_000
MOST_LISTED = 200_000
MOST_BYTES = 64 << 20
"""Most attributes, listed names and bytes of contents that are kept."""
MOST_CHANGES = 4096
"""Changes that are remembered for the sake of answers which are still on their way."""

Listing = Mapping[bytes, Attrs]
"""The names in a directory, without ``.`` and ``..``."""


def parent(path: bytes) -> bytes:
    """Return the directory that holds ``path``; ``/`` for ``/``."""
    return path.rpartition(b"/")[0] or b"/"


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of ``name`` in ``directory``."""
    return (b"/" if directory == b"/" else directory + b"/") + name


@dataclass(frozen=True, slots=True)
class Known:
    """That a name's attributes are known; ``attrs`` is None if nothing has that name."""

    attrs: Attrs | None


@dataclass(slots=True)
class _Listed:
    until: float
    names: Listing
    contents: bool
    changed: set[bytes] = field(default_factory=set)


class Cache:
    """Every entry is forgotten ``ttl`` seconds after it was stored, and when something here changes the file.

    An answer that was asked for before a change and arrives after it is not taken for what was changed: take ``version`` before
    asking, give it when storing. Threads may share it.
    """

    def __init__(self, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.ttl = ttl
        self.version = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._changes: deque[tuple[int, bytes, bool]] = deque(maxlen=MOST_CHANGES)
        self._attrs: dict[bytes, tuple[float, Known]] = {}
        self._listings: dict[bytes, _Listed] = {}
        self._listed = 0
        self._contents: dict[bytes, tuple[float, bytes]] = {}
        self._bytes = 0

    def attrs(self, path: bytes) -> Known | None:
        """Return what is known of ``path``; None if nothing."""
        now = self._clock()
        found = self._attrs.get(path)
        if found is not None and found[0] > now:
            return found[1]
        listed = self._listings.get(parent(path))
        if listed is None or listed.until <= now or path == b"/":
            return None
        name = path.rpartition(b"/")[2]
        if name in listed.changed:
            return None
        attrs = listed.names.get(name)
        # A name that is not in it may have been made meanwhile: "no such file" is worth a question.
        return Known(attrs) if attrs is not None and attrs.mode is not None else None

    def listing(self, path: bytes) -> Listing | None:
        """Return the names in the directory ``path`` with their attributes; None if not known."""
        found = self._listings.get(path)
        if found is None or found.until <= self._clock() or found.changed:
            return None
        return found.names

    def brought_contents(self, path: bytes) -> bool:
        """Return whether a listing of ``path`` came with contents just now: those missing would be missing again."""
        found = self._listings.get(path)
        return found is not None and found.until > self._clock() and found.contents

    def content(self, path: bytes) -> bytes | None:
        """Return the content of the file ``path``; None if not known."""
        found = self._contents.get(path)
        if found is None or found[0] <= self._clock():
            return None
        return found[1]

    def store(self, path: bytes, attrs: Attrs | None, version: int) -> None:
        """Remember the attributes of ``path``, or that it is not there."""
        if not self.ttl:
            return
        with self._lock:
            changed = self._changed(version)
            if changed is None or any(_touches(path, *change) for change in changed):
                return
            if len(self._attrs) >= MOST_ATTRS:
                self._attrs.clear()
            self._attrs[path] = (self._clock() + self.ttl, Known(attrs))

    def store_listing(self, path: bytes, names: Listing, contents: Mapping[bytes, bytes] | None, version: int) -> None:
        """Remember a complete listing of ``path`` and the contents of some of its files, if it came with contents."""
        if not self.ttl:
            return
        until = self._clock() + self.ttl
        with self._lock:
            changed = self._changed(version)
            if changed is None or any(_touches(path, *change) for change in changed if change[1]):
                return
            unsure = {where.rpartition(b"/")[2] for where, _ in changed if parent(where) == path}
            for name in names:  # the listing knows it better
                self._attrs.pop(join(path, name), None)
            self._drop_listing(path)
            if self._listed + len(names) > MOST_LISTED:
                self._listings.clear()
                self._listed = 0
            if len(names) <= MOST_LISTED:
                self._listings[path] = _Listed(until, names, contents is not None, unsure)
                self._listed += len(names)
            self._prune()
            for name, content in (contents or {}).items():
                full = join(path, name)
                self._drop_content(full)
                if name not in unsure and self._bytes + len(content) <= MOST_BYTES:
                    self._contents[full] = (until, content)
                    self._bytes += len(content)

    def forget(self, path: bytes, *, listed: bool = True) -> None:
        """Forget what is known of ``path``; with ``listed`` also the attributes of the directory that it is in."""
        with self._lock:
            self._forget(path, tree=False)
            if listed:
                self._attrs.pop(parent(path), None)

    def forget_tree(self, path: bytes) -> None:
        """Forget what is known of ``path``, of all below it, and the attributes of the directory that it is in."""
        below = path.rstrip(b"/") + b"/"
        with self._lock:
            self._forget(path, tree=True)
            self._attrs.pop(parent(path), None)
            for key in [key for key in self._attrs if key.startswith(below)]:
                del self._attrs[key]
            for key in [key for key in self._listings if key == path or key.startswith(below)]:
                self._drop_listing(key)
            for key in [key for key in self._contents if key.startswith(below)]:
                self._drop_content(key)

    def _forget(self, path: bytes, *, tree: bool) -> None:
        self.version += 1
        self._changes.append((self.version, path, tree))
        self._attrs.pop(path, None)
        self._drop_content(path)
        listed = self._listings.get(parent(path))
        if listed is not None:
            listed.changed.add(path.rpartition(b"/")[2])

    def _changed(self, version: int) -> list[tuple[bytes, bool]] | None:
        """Return what has changed since ``version``; None if that is not known any more."""
        behind = self.version - version
        if behind > len(self._changes):
            return None
        return [self._changes[-1 - index][1:] for index in range(behind)]

    def _drop_listing(self, path: bytes) -> None:
        found = self._listings.pop(path, None)
        if found is not None:
            self._listed -= len(found.names)

    def _drop_content(self, path: bytes) -> None:
        found = self._contents.pop(path, None)
        if found is not None:
            self._bytes -= len(found[1])

    def _prune(self) -> None:
        now = self._clock()
        if self._bytes > MOST_BYTES // 2:
            for key in [key for key, (until, _) in self._contents.items() if until <= now]:
                self._drop_content(key)


def _touches(path: bytes, changed: bytes, tree: bool) -> bool:
    """Return whether a change of ``changed`` (with all below it, if ``tree``) is one of ``path``."""
    return path == changed or (tree and path.startswith(changed.rstrip(b"/") + b"/"))
