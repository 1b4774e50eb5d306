"""The rooms keep to themselves: imports go one way, the version is told once, no module grows without end."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telewire import __version__

ROOT = Path(__file__).parents[1]
COMMON = "telewire"
ROOMS = (COMMON, "teleagent", "teledaemon", "teleroute", "telemount", "orchestrator", "devcluster")
LONGEST = 500
FOREIGN = {"teleagent/process.py": {"uvloop"}, "telewire/plugin.py": {"aiohttp"}}
"""What the two rooms that do with the standard library use besides, inside functions only."""

Import = tuple[str, bool]
"""A module's whole name, and whether it is imported as soon as the file is."""


def is_for_types_only(node: ast.AST) -> bool:
    """Whether ``node`` is an ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(source: str, package: str = COMMON) -> Iterator[Import]:
    """Yield what ``source``, a module of ``package``, imports: by statements and by calls that name a module."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                yield ".".join([*base, node.module or ""]).strip("."), at_once
            else:
                yield node.module or "", at_once
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            yield from ((str(name.value), at_once) for name in node.args[:1] if isinstance(name, ast.Constant))
        late = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_for_types_only(node)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once and not late)

    yield from walk(ast.parse(source), True)


def trespasses(source: str, room: str, package: str = "") -> list[str]:
    """Return the rooms that a module of ``room`` imports and may not."""
    found = {name.partition(".")[0] for name, _ in imports(source, package or room)}
    return sorted(found & {*ROOMS, "tests"} - {room, COMMON})


def foreign(source: str, room: str, allowed: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Return what a module of ``room`` imports that is of no room and not in the standard library."""
    own = sys.stdlib_module_names | set(ROOMS)
    found = ((name.partition(".")[0], at_once) for name, at_once in imports(source, room))
    return sorted({name for name, at_once in found if name not in own and (at_once or name not in allowed)})


def versions(source: str, version: str = __version__) -> list[str]:
    """Return where ``source`` tells the version by itself: by an assignment, or in a text."""
    found, text = [], re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w.])")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [name for target in targets if (name := ast.unparse(target)) == "__version__"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and text.search(node.value):
            found.append(node.value)
    return found


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def told(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_itself_and_telewire_only(room: str) -> None:
    assert modules(room), "the room is there"
    bad = {
        told(path): found for path in modules(room) if (found := trespasses(path.read_text(), room, package_of(path)))
    }
    assert bad == {}


@pytest.mark.parametrize("room", [COMMON, "teleagent"])
def test_what_runs_in_a_pod_needs_nothing_but_the_standard_library(room: str) -> None:
    bad = {}
    for path in modules(room):
        if found := foreign(path.read_text(), room, FOREIGN.get(told(path), set())):
            bad[told(path)] = found
    assert bad == {}


def test_what_is_allowed_besides_is_really_used() -> None:
    for name, allowed in FOREIGN.items():
        assert {module.partition(".")[0] for module, _ in imports((ROOT / name).read_text())} >= allowed, name


def test_the_agent_runs_without_uvloop() -> None:
    tree = ast.parse((ROOT / "teleagent/process.py").read_text())
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.Try) and "import uvloop" in ast.unparse(node.body[0])
    ]
    assert len(guarded) == 1
    assert [ast.unparse(handler.type) for handler in guarded[0].handlers if handler.type] == ["ImportError"]


def test_the_version_is_told_once() -> None:
    found = {told(path): seen for room in ROOMS for path in modules(room) if (seen := versions(path.read_text()))}
    assert found == {"telewire/__init__.py": ["__version__", __version__]}
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert 'version = { attr = "telewire.__version__" }' in project
    assert not re.search(r"^version\s*=\s*\"", project, re.MULTILINE)


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_is_longer_than_500_lines(room: str) -> None:
    sizes = {told(path): len(path.read_text().splitlines()) for path in modules(room)}
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


BAD = """
import os, teledaemon.kube
from orchestrator import api
from telewire.mux import Mux
from . import own
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from telemount import volumes
    import aiohttp
class Late:
    async def late(self):
        import teleroute as t
        import requests.adapters
        import importlib
        importlib.import_module("devcluster.cluster")
try:
    import yaml
except ImportError:
    __import__("tests.conftest")
"""


def test_a_module_that_trespasses_is_found() -> None:
    assert trespasses(BAD, "teleagent") == [
        "devcluster", "orchestrator", "teledaemon", "telemount", "teleroute", "tests",
    ]  # fmt: skip
    assert trespasses(BAD, "orchestrator") == ["devcluster", "teledaemon", "telemount", "teleroute", "tests"]
    assert trespasses("from teleagent import agent", COMMON) == ["teleagent"], "telewire imports no other room"
    assert trespasses("from ..teledaemon import kube", "teleroute", "teleroute.inner") == []
    assert trespasses("from ...teledaemon import kube", "teleroute", "teleroute.inner") == ["teledaemon"]


def test_a_module_that_needs_more_than_the_standard_library_is_found() -> None:
    assert foreign(BAD, "teleagent") == ["aiohttp", "requests", "tests", "yaml"]
    assert foreign(BAD, "teleagent", {"requests", "aiohttp", "yaml"}) == ["tests", "yaml"], (
        "allowed inside functions only"
    )


def test_a_second_version_is_found() -> None:
    assert versions('__version__ = "2.0"', "1.2.3") == ["__version__"]
    assert versions('__version__: str = "1.2.3"', "1.2.3") == ["__version__", "1.2.3"]
    assert versions('image = "telepresence/agent:1.2.3"', "1.2.3") == ["telepresence/agent:1.2.3"]
    assert versions('from telewire import __version__\ndependency = "1.2.3.4, 11.2.3"', "1.2.3") == []
