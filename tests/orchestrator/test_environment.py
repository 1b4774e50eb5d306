"""Environment variables reach a container byte by byte, by a way that shows them to nobody."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import dockerflags, environment
from tests.orchestrator.conftest import docker

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
NAME = st.text(st.sampled_from("ABCa_1. #\t"), min_size=1, max_size=5).filter(lambda name: "=" not in name)


@given(st.dictionaries(NAME, TEXT, max_size=8))
def test_each_variable_has_exactly_one_way(variables: dict[str, str]) -> None:
    transport = environment.plan(variables)
    seen = dict(line.partition("=")[::2] for line in transport.lines.decode().split("\n") if line)
    for argument in transport.arguments:
        name, equals, value = argument.removeprefix("--env=").partition("=")
        assert name not in seen
        seen[name] = value if equals else transport.inherited[name]
    assert seen == variables
    assert transport.dropped == []


def test_line_breaks_go_through_the_environment_of_the_command_and_stay_out_of_its_arguments() -> None:
    transport = environment.plan({"KEY": "a\n'b'\"\n", "PLAIN": " x=y ", "CR": "x\r"})
    assert transport.inherited == {"KEY": "a\n'b'\"\n", "CR": "x\r"}
    assert transport.arguments == ["--env=CR", "--env=KEY"]
    assert transport.lines == b"PLAIN= x=y \n"


def test_what_the_command_would_heed_does_not_reach_its_environment() -> None:
    names = ["PATH", "DOCKER_HOST", "LD_PRELOAD", "https_proxy", "HOME", "GODEBUG", "SSL_CERT_FILE"]
    transport = environment.plan(dict.fromkeys(names, "a\nb"))
    assert transport.inherited == {}
    assert set(transport.arguments) == {f"--env={name}=a\nb" for name in names}
    assert environment.plan(dict.fromkeys(names, "a")).arguments == []


def test_the_users_own_win() -> None:
    assert environment.plan({"A": "remote", "B": "remote"}, ["A"]).lines == b"B=remote\n"


def test_bytes_that_json_cannot_carry_are_told() -> None:
    transport = environment.plan({"BAD": b"\xff".decode(errors="surrogateescape"), "GOOD": "ü"})
    assert transport.dropped == ["BAD"]
    assert transport.lines == "GOOD=ü\n".encode()


def test_names_given(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "env")
    with open(path, "w") as file:
        file.write("# comment\n\n  A=1\nBARE\n")
    assert environment.names_given(["X=1", "Y"], [path]) == ["X", "Y", "A", "BARE"]


@pytest.mark.engine
def test_a_real_container_sees_the_same_bytes(clean: str) -> None:
    variables = {
        "PLAIN": "x", "EMPTY": "", "SPACES": "  a b  ", "QUOTES": "'\"`$HOME", "LINES": "-----BEGIN\n\"x\"\n-----END\n",
        "HASH": "#no", "EQUALS": "a=b=c", "PATH": "/usr/bin:/bin\n:/x", "DOCKER_HOST": "tcp://nowhere", "UNI": "grüß",
        "TAB": "\ta", "BACK": "a\\nb", "LONG": "y" * 100_000, "MINE": "remote",
    }  # fmt: skip
    run = dockerflags.parse(["--name", clean, "-e", "MINE=mine", "debian:trixie-slim", "true"])
    transport = environment.plan(variables, ["MINE"])
    file = transport.open_file()
    assert file is not None
    try:
        arguments = run.create_arguments([*transport.arguments, f"--env-file=/dev/fd/{file}"])
        docker("create", *arguments, env={**os.environ, **transport.inherited}, pass_fds=[file])
        copied = docker("inspect", "-f", "{{json .Config.Env}}", clean)
    finally:
        os.close(file)
    assert dict(entry.partition("=")[::2] for entry in json.loads(copied)) == {**variables, "MINE": "mine"}
