"""``docker run`` arguments are split where Docker splits them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from orchestrator import dockerflags
from orchestrator.dockerflags import Published, parse
from telewire.errors import BadRequest


@pytest.mark.parametrize(
    ("words", "image", "command"),
    [
        (["debian"], "debian", []),
        (["-it", "debian", "bash", "-c", "x"], "debian", ["bash", "-c", "x"]),
        (["-itp", "8080:80", "nginx", "-p", "x"], "nginx", ["-p", "x"]),
        (["-p8080:80", "-e=A=B", "nginx"], "nginx", []),
        (["--rm", "--name", "x", "--env=A=--image", "nginx", "--rm"], "nginx", ["--rm"]),
        (["--privileged=false", "-e", "--", "nginx"], "nginx", []),
        (["--init", "--", "nginx", "--", "y"], "nginx", ["--", "y"]),
        (["--net", "mine", "--dns-opt", "ndots:1", "nginx"], "nginx", []),
    ],
)
def test_image_is_found(words: list[str], image: str, command: list[str]) -> None:
    run = parse(words)
    assert (run.image, run.command) == (image, command)


def test_flags_are_read_as_pflag_reads_them() -> None:
    run = parse(["-itp", "8080:80", "-p=9090:90", "-e", "A=1", "-eB=2", "-i=false", "--net=mine", "--rm", "x"])
    assert run.values("publish") == ["8080:80", "9090:90"]
    assert run.values("env") == ["A=1", "B=2"]
    assert run.values("network") == ["mine"]
    assert run.true("tty")
    assert not run.true("interactive")
    assert run.true("rm")
    assert run.true("sig-proxy", default=True)


def test_what_is_for_run_alone_does_not_reach_create() -> None:
    run = parse(["-dit", "--pull", "never", "-q", "--detach-keys=ctrl-a", "--sig-proxy=false", "-h", "me", "x", "-d"])
    assert run.create_arguments(["--ours"]) == [
        "--ours", "--interactive=true", "--tty=true", "--hostname=me", "x", "-d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no image"),
        (["-e", "A=B"], "no image"),
        (["--rm"], "no image"),
        (["-e"], "-e needs a value"),
        (["--name"], "--name needs a value"),
        (["--mechanism", "tcp", "x"], "--mechanism=VALUE"),
        (["-x", "y"], "-x is not"),
        (["--rm=perhaps", "x"], "either true or false"),
        ([""], "empty"),
    ],
)
def test_bad_arguments_are_explained(words: list[str], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        parse(words)


def test_flags_that_are_not_known_pass_with_their_value_attached() -> None:
    assert parse(["--brand-new=1", "x"]).create_arguments() == ["--brand-new=1", "x"]


def test_mount_targets() -> None:
    run = parse(
        ["-v", "/a:/b:ro", "-v", "/anonymous", "--mount", "type=bind,src=/x,dst=/y/", "--tmpfs", "/t:size=1m", "i"]
    )
    assert dockerflags.mount_targets(run) == {"/b", "/anonymous", "/y", "/t"}


def test_networks() -> None:
    assert dockerflags.networks(parse(["--network", "name=a,ip=10.0.0.2", "--network", "b", "i"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8080:80", [Published("", 8080, "tcp")]),
        ("127.0.0.1:53:53/udp", [Published("127.0.0.1", 53, "udp")]),
        ("[::1]:80:80", [Published("::1", 80, "tcp")]),
        ("80", []),
        ("127.0.0.1::80", []),
        ("8000-8010:80", []),
    ],
)
def test_published(text: str, found: list[Published]) -> None:
    assert dockerflags.published(parse(["-p", text, "i"])) == found


@pytest.mark.engine
def test_table_knows_every_flag_of_the_installed_docker() -> None:
    docker = shutil.which("docker")
    assert docker
    text = subprocess.run([docker, "run", "--help"], capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^ +(?:(-\w), )?--([a-z0-9-]+)(?: (\S+))?(?:  |$)", text, re.MULTILINE)
    assert len(listed) > 80
    for short, name, value in listed:
        valued = bool(value)
        word = [f"--{name}", "v"] if valued else [f"--{name}"]
        assert parse([*word, "image"]).image == "image", name
        if short:
            assert parse([short, *word[1:], "image"]).flags == parse([*word, "image"]).flags
