"""The command line: help, unknown things refused in one line, data on stdout."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.__main__ import main
from orchestrator.cli import engaging, output, parser
from telewire.errors import BadRequest
from tests.orchestrator.conftest import Run, one_line


def parsed(*words: str) -> parser.Invocation:
    found = parser.parse(words)
    assert found is not None
    return found


def test_global_options_stand_before_or_after_the_command() -> None:
    for words in (["--use", "x", "--output=json", "quit"], ["quit", "--use", "x", "--output", "json"]):
        options = parsed(*words).options
        assert (options.use, options.output, options.progress) == ("x", "json", "auto")


def test_all_after_curl_and_docker_run_is_theirs() -> None:
    assert parsed("--use", "x", "curl", "--output", "file", "-v", "http://y").rest == [
        "--output",
        "file",
        "-v",
        "http://y",
    ]
    assert parsed("curl", "--help").rest == ["--help"]
    assert parsed("docker-run", "--rm", "debian", "--", "x").rest == ["--rm", "debian", "--", "x"]


def test_what_follows_the_double_dash_is_dockers() -> None:
    found = parsed("replace", "web", "-p", "8080:http", "--docker-run", "--", "--use", "x", "--", "y")
    assert found.rest == ["--use", "x", "--", "y"]
    assert found.options.port == ["8080:http"]
    assert found.options.use is None
    assert found.failure == 125
    assert parsed("connect", "--docker", "--", "make", "test").rest == ["make", "test"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["conect"], "unknown command 'conect', did you mean 'connect'"),
        (["connect", "--dock"], "unknown option --dock"),
        (["replace", "x", "--mechanism", "tcp", "--docker-run", "--", "y"], "unknown option --mechanism"),
        (["ingest", "x", "--port", "80", "--docker-run", "--", "y"], "unknown option --port"),
        (["replace", "x", "--service", "s", "--docker-run", "--", "y"], "unknown option --service"),
        (["intercept", "x", "--http-header", "a=b", "--docker-run", "--", "y"], "unknown option --http-header"),
        (["leave"], "required: NAME"),
        (["leave", "a", "b"], "unknown argument b"),
        (["--output", "xml", "status"], "'xml'"),
        (["--verbose", "status"], "unknown option --verbose"),
        (["--progress"], "expected one argument"),
        (["--use", "x"], "no command"),
        (["detach", "x"], "unknown command 'detach'"),
    ],
)
def test_what_is_not_built_is_unknown(words: list[str], said: str) -> None:
    with pytest.raises(parser.UsageError, match=said):
        parser.parse(words)


@pytest.mark.parametrize(
    "words", [["--help"], [], ["-h"], ["help"], ["connect", "--help"], ["help", "curl"], ["--version"]]
)
def test_help_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.parse(words) is None
    assert "telepresence" in capsys.readouterr().out


def test_every_command_and_option_is_in_the_reference() -> None:
    import argparse

    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for name, command in parser.COMMANDS.items():
        assert f"`telepresence {name}" in page
        made = argparse.ArgumentParser(add_help=False)
        command.options(made)
        for action in made._actions:
            for option in action.option_strings:
                assert f"`{option}" in page, f"{name} {option}"


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orchestrator.__main__ import main; main(['--help']); "
        "sys.exit(','.join(m for m in ('docker','requests','yaml','aiohttp','asyncio','http.client') if m in sys.modules))"
    )
    best = 9.0
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        best = min(best, time.monotonic() - started)
        assert done.stderr == "\n"
    assert best < 0.5


def test_no_docker(telepresence: Run) -> None:
    line = one_line(telepresence("list", DOCKER_HOST="unix:///nowhere/docker.sock"))
    assert "no Docker Engine answers at unix:///nowhere/docker.sock" in line
    assert telepresence("curl", "x", DOCKER_HOST="unix:///nowhere/docker.sock").returncode == 125
    assert "on another machine" in one_line(telepresence("status", DOCKER_HOST="ssh://host.example"))
    done = telepresence("version", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 0
    assert "unknown, no Docker Engine" in done.stdout


def test_bad_command_lines_are_one_line(telepresence: Run) -> None:
    assert "--no-such-option" in one_line(telepresence("connect", "--docker", "--no-such-option"))
    assert "connect --docker" in one_line(telepresence("connect"))


@pytest.fixture
def _signals() -> Iterator[None]:
    """Give back the signal handlers that the command puts in place of pytest's."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["intercept"], 2, "required: NAME"),
        (["replace", "x"], 2, "--docker-run"),
        (["ingest", "x", "--", "y"], 2, "a handler is needed"),
        (["replace", "x", "--docker-run", "--", "-e", "A=B"], 125, "no image"),
        (["wiretap", "x", "--docker-run"], 125, "no image"),
        (["intercept", "x", "--docker-run", "--docker-build", ".", "--", "y"], 125, "exclude each other"),
        (["intercept", "x", "--docker-debug", ".", "--docker-build", "."], 125, "exclude each other"),
        (["intercept", "x", "--docker-run", "--docker-build-opt", "tag=y", "--", "y"], 125, "--docker-build-opt is for"),
        (["intercept", "x", "--docker-build", ".", "--docker-build-opt", "tag"], 125, "key=value"),
        (["intercept", "x", "--docker-build", "."  , "--", "sh"], 125, "the word IMAGE is missing"),
        (["intercept", "x", "--docker-build", ".", "--", "IMAGE", "IMAGE"], 125, "stands 2 times"),
        (["intercept", "x", "--docker-build", "/nowhere/at/all"], 125, "no folder /nowhere/at/all"),
        (["intercept", "x", "--docker-run", "--", "IMAGE"], 125, "IMAGE stands for what --docker-build builds"),
        (["intercept", "x", "--docker-run", "-p", "a:b:c", "--", "y"], 125, "three parts"),
        (["replace", "x", "--docker-run", "--mount", "data", "--", "y"], 125, "--mount is true, false or /PATH"),
        (["replace", "x", "--docker-run", "--mount=false", "--docker-mount", "/d", "--", "y"], 125, "--docker-mount"),
        (["ingest", "x", "--docker-run", "--to-pod", "80/sctp", "--", "y"], 125, "no protocol"),
        (["ingest", "x", "--docker-run", "--env-syntax", "fish", "--", "y"], 125, "no --env-syntax 'fish'"),
        (["ingest", "x", "--docker-run", "-e", "/nowhere/at/all", "--", "y"], 125, "no folder /nowhere/at"),
        (["wiretap", "x", "--docker-run", "--address", "a:80", "--", "y"], 125, "--address"),
        (["wiretap", "x", "--docker-run", "--", "-d", "y"], 125, "-d/--detach"),
        (["wiretap", "a/b", "--docker-run", "--", "y"], 125, "cannot be named 'a/b'"),
        (["wiretap", "x", "-w", "", "--docker-run", "--", "y"], 125, "workload's name is empty"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_signals")
def test_bad_engagements_are_one_line(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("telepresence: ")
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1


def test_what_an_engagement_is_asked_for(tmp_path: Path) -> None:
    found = parsed(
        "intercept", "mine", "-w", "web", "--container", "app", "--service", "front", "-p", "8080:80,53:dns/udp",
        "--port", "9090", "--to-pod", "5432", "--address", "other", "--mount", "/r:ro", "-e", "env", "-j", "env.json",
        "--env-syntax", "sh:export", "--wait-message", "up", "--docker-build", str(tmp_path), "--docker-build-opt",
        "tag=a,b", "--docker-build-opt", "build-arg=A=B", "--", "-it", "IMAGE", "sh",
    )  # fmt: skip
    wish = engaging.wish("intercept", found.options, found.rest)
    assert (wish.kind, wish.name, wish.workload, wish.container, wish.service) == (
        "intercept",
        "mine",
        "web",
        "app",
        "front",
    )
    assert (list(wish.ports), list(wish.to_pod), wish.address) == (["8080:80,53:dns/udp", "9090"], ["5432"], "other")
    assert wish.mounts == api.Mounts(root="/r", read_only=True)
    assert (wish.env_file, wish.env_json, wish.env_syntax, wish.wait_message) == ("env", "env.json", "sh:export", "up")
    assert wish.build == api.Build(str(tmp_path), ("tag=a,b", "build-arg=A=B"))
    assert (wish.handler.image, wish.handler.command) == ("IMAGE", ["sh"])
    plain = engaging.wish(
        "ingest", (found := parsed("ingest", "web", "-c", "app", "--docker-run", "--", "y")).options, found.rest
    )
    assert (plain.name, plain.workload, plain.container, plain.mounts) == ("web", "web", "app", api.Mounts())


def test_no_kubeconfig_and_no_such_context(telepresence: Run, tmp_path: Path) -> None:
    line = one_line(telepresence("connect", "--docker", KUBECONFIG="/nowhere/config"))
    assert "there is no kubeconfig: /nowhere/config" in line
    path = tmp_path / "config"
    path.write_text(
        "contexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\n"
    )
    line = one_line(telepresence("connect", "--docker", "--kubeconfig", str(path), "--context", "b"))
    assert "no context 'b'" in line
    assert "there are: a" in line


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_choosing_a_connection() -> None:
    found: list[api.Connection] = [_Named("dev"), _Named("dev-two")]  # type: ignore[list-item]
    assert api.choose(found, "dev").name == "dev"
    assert api.choose(found, "two$").name == "dev-two"
    assert api.choose(found[:1]).name == "dev"
    several = r"several connections \(dev, dev-two\); choose one with --use"
    for use, said in ((None, several), ("d", "more than one"), ("x", "no conn"), ("(", "no regular")):
        with pytest.raises(BadRequest, match=said):
            api.choose(found, use)
    with pytest.raises(api.NotConnectedError, match="telepresence connect --docker"):
        api.choose([])


def test_list_and_status_text() -> None:
    workload = {"name": "web", "kind": "Deployment", "namespace": "x", "replicas": 2, "ready": 1, "containers": ["c"]}
    workloads: Any = [
        {**workload, "engagements": [], "reason": None},
        {**workload, "name": "api", "engagements": ["api", "copy"], "reason": None},
        {**workload, "name": "job", "engagements": [], "reason": "it has no pod"},
    ]
    engagements: Any = [
        {"name": "api", "kind": "intercept", "workload": "api", "workload_kind": "Deployment"},
        {"name": "copy", "kind": "wiretap", "workload": "api", "workload_kind": "Deployment"},
        {"name": "web", "kind": "ingest", "workload": "web", "workload_kind": "StatefulSet"},
    ]
    listed = output.list_data(workloads, engagements)
    assert output.list_text(listed).splitlines() == [
        "deployment web: ready to engage (1/2 ready)",
        "deployment api: intercepted, wiretapped (copy) (1/2 ready)",
        "deployment job: not engageable: it has no pod (1/2 ready)",
    ]
    assert (listed[1]["intercepts"], listed[1]["wiretaps"], listed[1]["ingests"]) == (["api"], ["copy"], [])
    assert [one["name"] for one in output.list_data(workloads, engagements, ["wiretaps", "ingests"])] == ["api"]
    assert output.list_data(workloads, engagements, ["replacements"]) == []
    dead = output.status_data("dev", None, "the daemon is gone")
    assert output.status_text(dead) == "dev: Not connected\n  Error      : the daemon is gone"
