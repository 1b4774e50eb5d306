"""``python -m devcluster``: whatever is wrong with its arguments or its engine is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import __main__ as command
from telewire.errors import Unavailable

ROOT = Path(__file__).parents[2]
NOWHERE = "unix:///nowhere/docker.sock"
NAMED = ("up", "down", "status", "load", "kubeconfig", "kubectl", "sample")


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong here, no cluster is touched."""

    def client() -> None:
        raise Unavailable("no engine for this test")

    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    monkeypatch.setattr("devcluster.engine.client", client)
    monkeypatch.setattr("devcluster.cluster.client", client)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["devcluster", *arguments])
    try:
        return command.main()
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["nothing"], "'nothing'"),
        (["up", "--nothing"], "--nothing"),
        (["up", "extra"], "extra"),
        (["up", "--name"], "--name"),
        (["up", "--dual-stack=yes"], "--dual-stack"),
        (["status", "--dual-stack"], "--dual-stack"),
        (["load"], "image"),
        (["load", "--name", "dev"], "image"),
        (["build", "--name", "dev"], "--name"),
        (["--name", "dev", "up"], "dev"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("devcluster")
    assert said in line
    assert "--help" in line


@pytest.mark.parametrize("name", ["", "Dev", "a_b", "../etc", "x" * 33, "a\nb"])
@pytest.mark.parametrize("subcommand", NAMED)
def test_a_wrong_name_is_told_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], subcommand: str, name: str
) -> None:
    more = ["image"] if subcommand == "load" else []
    assert run(monkeypatch, subcommand, f"--name={name}", *more) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"devcluster: {name!r} is no name for a cluster; use ")


def test_help_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(subcommand in shown for subcommand in (*NAMED, "build", "base-image"))


def test_what_follows_kubectl_is_kubectls() -> None:
    parse = command._parser().parse_args
    assert parse(["kubectl", "--name", "x", "--", "get", "--name", "pods", "-A"]).arguments == [
        *("--", "get", "--name", "pods", "-A")
    ]
    assert parse(["kubectl", "get", "pods", "-n", "a"]).arguments == ["get", "pods", "-n", "a"]
    assert (parse(["up"]).name, parse(["up"]).dual_stack) == ("dev", False)
    assert parse(["load", "a", "b"]).image == ["a", "b"]


def test_an_engine_that_does_not_answer_is_told_in_one_line() -> None:
    """Asked with a command that changes nothing, at the address that the docker command would ask."""
    for host in (NOWHERE, "tcp://127.0.0.1:1", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-m", "devcluster", "status"],
            env={**os.environ, "DOCKER_HOST": host}, cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("devcluster: asking the Docker Engine: the Docker Engine does not answer")
