from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telewire import __version__, errors, names
from telewire.names import client_id, image, safe_name

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_safe_name_is_one_that_docker_takes(text: str) -> None:
    name = safe_name(text)
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name)
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("kind-default", "kind-default"),
        ("arn:aws:eks/cluster-default", "arn_aws_eks_cluster-default"),
        ("user@host-ns.1", "user_host-ns.1"),
        ("über", "aber"),
        ("", "a"),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_the_client_id_is_the_same_after_a_crash_and_another_for_each_connection() -> None:
    assert client_id("ENGINE", "kind-default") == "354f36a330a9ad89", "sha256sum of ENGINE/kind-default"
    assert len({client_id(engine, connection) for engine in "EF" for connection in "ab"}) == 4


def test_images_are_of_this_version_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TELEPRESENCE_REGISTRY", "TELEPRESENCE_AGENT_IMAGE", "TELEPRESENCE_DAEMON_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    assert image("agent") == f"telepresence/agent:{__version__}"
    monkeypatch.setenv("TELEPRESENCE_REGISTRY", "registry.example:5000/mirror/")
    assert image("agent") == f"registry.example:5000/mirror/telepresence/agent:{__version__}"
    monkeypatch.setenv("TELEPRESENCE_AGENT_IMAGE", "mine:1")
    assert image("agent") == "mine:1"
    assert image("daemon") == f"registry.example:5000/mirror/telepresence/daemon:{__version__}"


def test_the_architecture_page_spells_the_constants_alike() -> None:
    page = ARCHITECTURE.read_text()
    for name, value in vars(names).items():
        if name.startswith(("LABEL_", "ROLE_")):
            assert f"`{value}`" in page, name
        elif name.endswith("_PORT"):
            assert re.search(rf"^\| {value}/tcp", page, re.MULTILINE), name
        elif name.endswith("_PLUGIN"):
            assert f"`{value}`" in page, name
    assert "=".join(names.KUBE_MANAGED_BY) in page
    assert names.KUBE_LABEL_CLIENT in page
    assert names.KUBE_ANNOTATION_REPLACED in page


def test_every_error_has_a_code_of_the_control_api() -> None:
    page = ARCHITECTURE.read_text()
    leaves = errors.TeleError.__subclasses__()
    assert len({error.code for error in leaves if error.__module__ == errors.__name__}) == 5
    for error in [errors.TeleError, *leaves]:
        assert re.search(rf"[|\"]{error.code}[|\"]", page), error


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (None, ["info", "error"]),
        ("debug", ["debug", "info", "error"]),
        ("ERROR", ["error"]),
        ("loud", ["info", "error"]),
    ],
)
def test_logs_are_one_line_a_record_from_the_wanted_level_on(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, shown: list[str]
) -> None:
    monkeypatch.delenv("TELEPRESENCE_LOG", raising=False)
    if wanted:
        monkeypatch.setenv("TELEPRESENCE_LOG", wanted)
    program = (
        "from telewire.logs import set_up; log = set_up('part')\n"
        "for level in ('debug', 'info', 'error'): getattr(log, level)('said %s', level)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.rpartition(" ")[2] for line in lines if ": said " in line] == shown
    assert any("is no level" in line for line in lines) == (wanted == "loud")
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +part: ", line) for line in lines)
    assert logging.getLogger("part").level == logging.NOTSET
