from __future__ import annotations

from telemount.cache import Cache, Known
from telemount.eager import AFTER, PER_ENTRY, WALKING, WINDOW, Eagerness
from telewire.sftp import Attrs

FILE = Attrs(mode=0o100644, size=3)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_entries_expire() -> None:
    clock = Clock()
    cache = Cache(1.0, clock)
    cache.store(b"/d/f", FILE, cache.version)
    cache.store(b"/d/no", None, cache.version)
    cache.store_listing(b"/d", {b"g": FILE}, {b"g": b"abc"}, cache.version)
    assert cache.attrs(b"/d/f") == Known(FILE) == cache.attrs(b"/d/g")
    assert cache.attrs(b"/d/no") == Known(None)
    assert cache.attrs(b"/d/never-asked-for") is None
    assert cache.content(b"/d/g") == b"abc"
    assert cache.brought_contents(b"/d")
    clock.now += 1.0
    assert cache.attrs(b"/d/f") is cache.attrs(b"/d/no") is cache.attrs(b"/d/g") is None
    assert cache.listing(b"/d") is cache.content(b"/d/g") is None
    assert not cache.brought_contents(b"/d")


def test_nothing_is_kept_for_no_time() -> None:
    cache = Cache(0)
    cache.store(b"/f", FILE, cache.version)
    cache.store_listing(b"/", {b"f": FILE}, {b"f": b"abc"}, cache.version)
    assert cache.attrs(b"/f") is cache.listing(b"/") is cache.content(b"/f") is None


def test_a_change_is_forgotten_alone() -> None:
    cache = Cache(1.0)
    cache.store_listing(b"/d", {b"a": FILE, b"b": FILE}, {b"a": b"abc", b"b": b"def"}, cache.version)
    cache.forget(b"/d/a")
    assert cache.attrs(b"/d/a") is cache.content(b"/d/a") is cache.listing(b"/d") is None
    assert cache.attrs(b"/d/b") == Known(FILE)
    assert cache.content(b"/d/b") == b"def"


def test_an_answer_from_before_a_change_is_not_taken() -> None:
    cache = Cache(1.0)
    version = cache.version
    cache.forget(b"/d/a")
    cache.store(b"/d/a", FILE, version)
    cache.store_listing(b"/d", {b"a": FILE, b"b": FILE}, {b"a": b"abc", b"b": b"def"}, version)
    assert cache.attrs(b"/d/a") is cache.content(b"/d/a") is cache.listing(b"/d") is None
    assert cache.attrs(b"/d/b") == Known(FILE)
    cache.store(b"/d/a", FILE, cache.version)
    assert cache.attrs(b"/d/a") == Known(FILE)
    version = cache.version
    cache.forget_tree(b"/d")
    cache.store_listing(b"/d", {b"b": FILE}, None, version)
    cache.store(b"/d/b", FILE, version)
    assert cache.listing(b"/d") is cache.attrs(b"/d/b") is None


def test_too_many_changes_are_taken_for_all() -> None:
    cache = Cache(1.0)
    version = cache.version
    for number in range(5000):
        cache.forget(b"/%d" % number)
    cache.store(b"/never", FILE, version)
    assert cache.attrs(b"/never") is None


def test_a_tree_is_forgotten_whole() -> None:
    cache = Cache(1.0)
    cache.store(b"/d", FILE, cache.version)
    cache.store(b"/d/e/f", FILE, cache.version)
    cache.store(b"/de", FILE, cache.version)
    cache.store_listing(b"/d/e", {b"g": FILE}, {b"g": b"x"}, cache.version)
    cache.forget_tree(b"/d")
    assert cache.attrs(b"/d") is cache.attrs(b"/d/e/f") is cache.attrs(b"/d/e/g") is cache.content(b"/d/e/g") is None
    assert cache.attrs(b"/de") == Known(FILE)


def test_one_file_asked_for_again_and_again_is_no_reason() -> None:
    eager = Eagerness()
    for _ in range(100):
        eager.asked(b"/d/f", opened=True)
    assert not eager.due(b"/d")
    assert not eager.contents(b"/d")


def test_different_files_are() -> None:
    clock = Clock()
    eager = Eagerness(clock=clock)
    for number in range(AFTER):
        assert not eager.due(b"/d")
        eager.asked(b"/d/%d" % number, opened=True)
    assert eager.due(b"/d")
    assert eager.contents(b"/d")
    assert not eager.due(b"/other")
    clock.now += WINDOW + 0.1
    assert not eager.due(b"/d")


def test_large_directories_take_more() -> None:
    eager = Eagerness()
    eager.fetched(b"/d", 10 * PER_ENTRY)
    for number in range(AFTER + 9):
        eager.asked(b"/d/%d" % number)
    assert not eager.due(b"/d")
    eager.asked(b"/d/last")
    assert eager.due(b"/d")


def test_what_was_of_no_use_takes_more() -> None:
    eager = Eagerness()
    for number in range(AFTER):
        eager.asked(b"/d/%d" % number)
    eager.fetched(b"/d", 1)
    for number in range(AFTER):
        eager.asked(b"/d/%d" % number)
    assert not eager.due(b"/d")


def test_what_was_used_is_fetched_again_at_once() -> None:
    eager = Eagerness()
    for number in range(AFTER):
        eager.asked(b"/d/%d" % number, opened=True)
    eager.fetched(b"/d", 100_000)
    for number in range(AFTER):
        eager.used(b"/d/%d" % number)
    assert eager.due(b"/d")


def test_walking_through_directories_brings_contents() -> None:
    eager = Eagerness()
    assert not eager.contents(b"/new")
    for number in range(WALKING):
        eager.asked(b"/d%d/f" % number, opened=True)
    assert eager.contents(b"/new")


def test_never() -> None:
    eager = Eagerness(None)
    for number in range(100):
        eager.asked(b"/d/%d" % number, opened=True)
    assert not eager.due(b"/d")
    assert not eager.contents(b"/d")
