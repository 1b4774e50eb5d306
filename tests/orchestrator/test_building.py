"""Images are built by the real ``docker build``; the word ``IMAGE`` stands where ``docker run`` has the image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import building, dockerflags
from orchestrator.building import Build, BuildError
from orchestrator.progress import Reporter
from telewire.errors import BadRequest, NotFound
from tests.orchestrator.conftest import docker

QUIET, PLAIN = Reporter("quiet"), Reporter("plain")


@pytest.mark.parametrize(
    ("words", "flags", "command"),
    [
        ([], [], []),
        (["IMAGE"], [], []),
        (["-it", "--name", "x", "IMAGE", "sh", "-c", "true"], ["interactive", "tty", "name"], ["sh", "-c", "true"]),
        (["-e", "A=IMAGE", "IMAGE"], ["env"], []),
    ],
)
def test_the_word_stands_for_the_image(words: list[str], flags: list[str], command: list[str]) -> None:
    run = building.placeholder(words)
    assert (run.image, [name for name, _ in run.flags], run.command) == ("IMAGE", flags, command)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sh"], "the word IMAGE is missing"),
        (["-e", "A=B"], "the word IMAGE is missing"),
        (["frontend-v2", "image"], "the word IMAGE is missing"),
        (["IMAGE", "IMAGE"], "stands 2 times"),
        (["IMAGE", "run", "IMAGE", "IMAGE"], "stands 3 times"),
        (["frontend-v2", "IMAGE"], "'frontend-v2' stands before IMAGE"),
        (["--name", "IMAGE"], "no image"),
        (["--no-such-flag", "IMAGE"], "not a `docker run` flag"),
    ],
)
def test_the_word_missing_or_twice(words: list[str], said: str) -> None:
    with pytest.raises(BadRequest, match=said) as error:
        building.placeholder(words)
    assert "\n" not in str(error.value)


def test_bad_options(tmp_path: Path) -> None:
    run = building.placeholder([])
    building.check(Build(str(tmp_path), ["tag=mytag", "build-arg=A=B,C", "t=x"]), run)
    building.check(Build("https://example.com/x.git#main"), run)
    building.check(None, dockerflags.parse(["frontend-v2"]))
    for option in ("tag", "=x", "--tag=x", "Tag=x", ""):
        with pytest.raises(BadRequest, match="--docker-build-opt is key=value"):
            building.check(Build(str(tmp_path), [option]), run)
    with pytest.raises(NotFound, match="there is no folder /nowhere/at/all to build from"):
        building.check(Build("/nowhere/at/all"), run)
    with pytest.raises(BadRequest, match="is empty"):
        building.check(Build(""), run)
    with pytest.raises(BadRequest, match="IMAGE stands for what --docker-build builds"):
        building.check(None, dockerflags.parse(["IMAGE"]))


def test_debugging_relaxes_security() -> None:
    assert building.flags(Build(".")) == building.flags(None) == []
    assert building.flags(Build(".", debug=True)) == [
        ("security-opt", "apparmor=unconfined"),
        ("cap-add", "SYS_PTRACE"),
    ]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG WORD=none\nLABEL word=$WORD\nCOPY file /file\n")
    (tmp_path / "file").write_text("x")
    return tmp_path


@pytest.mark.engine
def test_the_image_has_its_id_and_its_tag(context: Path, unique: str, capfd: pytest.CaptureFixture[str]) -> None:
    image = building.build(Build(str(context), [f"tag={unique}", "build-arg=WORD=a,b=c"]), PLAIN)
    try:
        assert image.startswith("sha256:")
        assert docker("image", "inspect", "-f", "{{.Id}} {{.Config.Labels.word}}", unique) == f"{image} a,b=c"
        shown = capfd.readouterr()
        assert "COPY file" in shown.err
        assert shown.out == ""
        assert building.build(Build(str(context), ["build-arg=WORD=a,b=c", f"t={unique}"]), QUIET) == image
        assert capfd.readouterr() == ("", "")
    finally:
        docker("rmi", "-f", image)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("FROM debian:trixie-slim\nRUN echo why-it-failed; false\n", "false"),
        ("NONSENSE x\n", "(?i)unknown instruction: NONSENSE"),
        ("FROM scratch\nCOPY nothing /\n", "nothing"),
    ],
)
def test_a_build_that_fails(context: Path, file: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text(file)
    before = docker("ps", "-aq")
    with pytest.raises(BuildError, match=said) as error:
        building.build(Build(str(context)), QUIET)
    left = set(docker("ps", "-aq").split()) - set(before.split())
    assert [one for one in left if "why-it-failed" in docker("inspect", "-f", "{{.Path}} {{.Args}}", one)] == []
    assert "\n" not in str(error.value)
    assert f"cannot be built from {context}" in str(error.value)
    if "RUN" in file:
        assert "why-it-failed" in capfd.readouterr().err


@pytest.mark.engine
def test_no_dockerfile_and_an_option_that_is_none(context: Path) -> None:
    with pytest.raises(BuildError, match="no-such-option"):
        building.build(Build(str(context), ["no-such-option=x"]), QUIET)
    (context / "Dockerfile").unlink()
    with pytest.raises(BuildError, match="Dockerfile"):
        building.build(Build(str(context)), QUIET)


def test_a_signal_ends_the_build(context: Path) -> None:
    script = (
        "import signal, sys, threading, os\n"
        "from orchestrator import building, process, undo\n"
        "def stop(*_): raise undo.StoppedError(15)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), 15)).start()\n"
        "try: building._run(['sleep', '30'], os.environ, False)\n"
        "except undo.StoppedError: sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (7, b"")
