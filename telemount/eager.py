"""When a whole directory is fetched instead of one file more: round trips are the cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from telemount.cache import parent

SMALL = 64 * 1024
"""Bytes up to which a file's content is fetched with its directory."""
AFTER = 3
"""Different files asked for one by one in a directory, after which all of it is fetched."""
MOST_AFTER = 48
"""The same where fetching was of no use again and again."""
PER_ENTRY = 1000
"""A directory known to be large has to be asked for one file more per so many entries."""
WALKING = 8
"""Different small files opened anywhere, after which directories are listed with contents at once."""
WINDOW = 5.0
"""Seconds in which that has to happen: longer than so many round trips take."""
MOST = 10_000
"""Directories that are remembered."""


@dataclass(slots=True)
class _Seen:
    since: float
    asked: set[bytes] = field(default_factory=set)
    opened: set[bytes] = field(default_factory=set)
    used: set[bytes] = field(default_factory=set)
    reading_until: float = 0.0
    after: int = AFTER


class Eagerness:
    """Counts what is asked for one by one. One file that is polled is no reason: only different ones count. Threads may share it."""

    def __init__(self, after: int | None = AFTER, clock: Callable[[], float] = time.monotonic) -> None:
        """``after`` None: never."""
        self._after = after
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[bytes, _Seen] = {}
        self._sizes: dict[bytes, int] = {}
        self._walk: set[bytes] = set()
        self._walk_since = 0.0

    def asked(self, path: bytes, *, opened: bool = False) -> None:
        """Count a look-up of ``path`` (or its opening as a small file) that took a round trip."""
        with self._lock:
            seen = self._of(parent(path))
            seen.asked.add(path)
            if opened:
                self._opened(seen, path)

    def due(self, directory: bytes) -> bool:
        """Return whether to fetch ``directory`` now, instead of one file more of it."""
        if self._after is None:
            return False
        with self._lock:
            seen = self._of(directory)
            enough = seen.after + self._sizes.get(directory, 0) // PER_ENTRY
            return len(seen.asked) >= enough or len(seen.used) >= self._after

    def used(self, path: bytes) -> None:
        """Tell that a content which came with its directory was used."""
        with self._lock:
            seen = self._of(parent(path))
            seen.used.add(path)
            self._opened(seen, path)

    def contents(self, directory: bytes) -> bool:
        """Return whether the files in ``directory`` are being read, so that a listing should bring their contents."""
        if self._after is None:
            return False
        now = self._clock()
        with self._lock:
            seen = self._seen.get(directory)
            if seen is not None and seen.reading_until > now:
                return True
            return len(self._walk) >= WALKING and now - self._walk_since <= WINDOW

    def fetched(self, directory: bytes, entries: int) -> None:
        """Tell that ``directory`` was fetched and how many entries it has: counting begins anew.

        If hardly anything of what came the last time was used, more is wanted before the next time.
        """
        with self._lock:
            if len(self._sizes) >= MOST:
                self._sizes.clear()
            self._sizes[directory] = entries
            seen = self._seen.get(directory)
            if seen is not None:
                after = AFTER if len(seen.used) >= AFTER else min(2 * seen.after, MOST_AFTER)
                self._seen[directory] = _Seen(self._clock(), reading_until=seen.reading_until, after=after)

    def _of(self, directory: bytes) -> _Seen:
        now = self._clock()
        seen = self._seen.get(directory)
        if seen is None or now - seen.since > WINDOW:
            if len(self._seen) >= MOST:
                self._seen.clear()
            self._seen[directory] = seen = _Seen(now)
        return seen

    def _opened(self, seen: _Seen, path: bytes) -> None:
        now = self._clock()
        seen.opened.add(path)
        if len(seen.opened) >= 2:
            seen.reading_until = now + WINDOW
        if now - self._walk_since > WINDOW:
            self._walk.clear()
            self._walk_since = now
        if len(self._walk) < WALKING:
            self._walk.add(path)
