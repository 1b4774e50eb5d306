"""Reading one open file ahead: chunks on a grid, several requests on their way, more the longer it is read in order."""

from __future__ import annotations

import threading
from collections.abc import Callable

from telemount.request import Request

MOST_AHEAD = 8 << 20
"""Most bytes that one file is read ahead."""
ALL_AHEAD = 64 << 20
"""Most bytes that all files of a mount are read ahead."""

Submit = Callable[[int, int], Request]
"""Asks for bytes (offset, size) without waiting."""


class Budget:
    """Bytes that all files of a mount may hold ahead of their readers."""

    def __init__(self, most: int = ALL_AHEAD) -> None:
        self._left = most
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if there are as many."""
        with self._lock:
            if self._left < size:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._left += size


class Readahead:
    """The chunks of one open file that were asked for and not yet read. Threads may read at the same time."""

    def __init__(self, submit: Submit, chunk: int, budget: Budget) -> None:
        self._submit = submit
        self._chunk = chunk
        self._budget = budget
        self._lock = threading.Lock()
        self._chunks: dict[int, tuple[Request, bool]] = {}
        self._last = -1
        self._window = 0

    def read(self, offset: int, target: memoryview, size: int) -> int:
        """Fill ``target`` with the bytes from ``offset`` on; return how many there are. OSError.

        ``size`` is the file's size as known: nothing is read ahead beyond it, and an answer that is short there is the file's end.
        """
        chunk, wanted = self._chunk, len(target)
        first, last = offset // chunk, (offset + wanted - 1) // chunk
        with self._lock:
            if -2 <= first - self._last <= 1:
                requests = self._in_order(first, last, size)
            else:
                self._drop_all()
                self._window = 0
                self._last = last
                requests = []
        try:
            return self._collect(requests, offset, target, size)
        except OSError:
            self.forget()  # the next try asks again
            raise

    def _collect(self, requests: list[tuple[int, Request]], offset: int, target: memoryview, size: int) -> int:
        done, wanted, chunk = 0, len(target), self._chunk
        for index, request in requests:
            data = request.wait().data()
            start = offset + done - index * chunk
            part = data[start : start + wanted - done]
            target[done : done + len(part)] = part
            done += len(part)
            if len(data) < chunk:
                self._drop(index)  # the file may grow: what is behind its end is asked for again
                break
        alone = not requests
        while done < wanted and (alone or offset + done < size):
            part = self._submit(offset + done, min(wanted - done, chunk)).wait().data()[: wanted - done]
            if not part:
                break
            target[done : done + len(part)] = part
            done += len(part)
            alone = alone and offset + done < size
        return done

    def forget(self) -> None:
        """Drop what was read ahead: the file has changed, or is closed."""
        with self._lock:
            self._drop_all()

    def _in_order(self, first: int, last: int, size: int) -> list[tuple[int, Request]]:
        for index in [index for index in self._chunks if index < first - 1]:
            self._drop_one(index)
        if last > self._last:
            self._window = min(max(2 * self._window, 1), MOST_AHEAD // self._chunk)
            self._last = last
        requests = []
        for index in range(first, last + 1):
            if index not in self._chunks:
                self._chunks[index] = (self._submit(index * self._chunk, self._chunk), False)
            requests.append((index, self._chunks[index][0]))
        end = (size + self._chunk - 1) // self._chunk
        for index in range(last + 1, min(last + 1 + self._window, end)):
            if index not in self._chunks:
                if not self._budget.take(self._chunk):
                    break
                self._chunks[index] = (self._submit(index * self._chunk, self._chunk), True)
        return requests

    def _drop(self, index: int) -> None:
        with self._lock:
            self._drop_one(index)

    def _drop_one(self, index: int) -> None:
        found = self._chunks.pop(index, None)
        if found is not None and found[1]:
            self._budget.give(self._chunk)

    def _drop_all(self) -> None:
        for index in list(self._chunks):
            self._drop_one(index)
