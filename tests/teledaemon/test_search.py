"""Which names are asked of the cluster, as a pod's resolver would (resolv.conf(5))."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teledaemon.search import absolute, candidates

SEARCH = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]


def expanded(name: str) -> list[str]:
    return [f"{name}.{domain}." for domain in SEARCH]


@pytest.mark.parametrize(
    ("name", "names", "whole"),
    [
        ("backend.", expanded("backend"), None),
        ("backend", expanded("backend"), None),
        ("BackEnd.", expanded("backend"), None),
        ("backend.other.", expanded("backend.other"), "backend.other."),
        ("www.example.com.", expanded("www.example.com"), "www.example.com."),
        ("a.b.c.d.e.", expanded("a.b.c.d.e"), "a.b.c.d.e."),
        ("a.b.c.d.e.f.", [], "a.b.c.d.e.f."),  # five dots: it is taken for whole
        ("backend.default.svc.cluster.local.", [], "backend.default.svc.cluster.local."),
        ("backend.default.svc.CLUSTER.local.", [], "backend.default.svc.cluster.local."),
        ("x.cluster.local.", [], "x.cluster.local."),
        ("cluster.local.", expanded("cluster.local"), "cluster.local."),
        ("notcluster.local.", expanded("notcluster.local"), "notcluster.local."),
        ("10.0.96.10.in-addr.arpa.", [], "10.0.96.10.in-addr.arpa."),
        (".", [], "."),
    ],
)
def test_what_a_name_means(name: str, names: list[str], whole: str | None) -> None:
    assert candidates(name, SEARCH, 5) == (names, whole)


@pytest.mark.parametrize(("ndots", "asks"), [(0, False), (1, False), (2, True), (3, True)])
def test_ndots_decides_from_how_many_dots_on_a_name_is_whole(ndots: int, asks: bool) -> None:
    names, whole = candidates("example.com.", SEARCH, ndots)
    assert bool(names) is asks
    assert whole == "example.com."
    assert candidates("backend.", SEARCH, ndots) == (expanded("backend"), None)


def test_without_a_search_list_only_the_name_itself_is_left() -> None:
    assert candidates("backend.", [], 5) == ([], None)
    assert candidates("www.example.com.", [], 5) == ([], "www.example.com.")


def test_a_domain_may_be_written_in_any_way() -> None:
    assert candidates("a.", ["Svc.Local."], 5) == (["a.svc.local."], None)


@given(st.lists(st.text("abcXYZ-_", min_size=1, max_size=63), min_size=1, max_size=8), st.integers(0, 9))
def test_every_name_is_absolute_lower_case_and_short_enough(labels: list[str], ndots: int) -> None:
    names, whole = candidates(".".join(labels), SEARCH, ndots)
    for name in (*names, *([whole] if whole else [])):
        assert name == absolute(name)
        assert name.startswith(".".join(labels).lower() + ".")
    assert all(len(name) <= 254 for name in names)
    assert whole is not None or len(labels) == 1
