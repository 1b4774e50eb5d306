"""An engagement from its request to its end: the real engine, with a stand-in for the daemon."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import building, dockerflags, engaging, handling, topod
from orchestrator.building import Build, BuildError
from orchestrator.engaging import Engage
from orchestrator.engine import Engine
from orchestrator.mounting import Mounts
from orchestrator.progress import Reporter
from telewire import names
from telewire.errors import BadRequest, NotFound, TeleError, Unavailable
from tests.orchestrator.conftest import docker
from tests.orchestrator.standin import StandIn, engagement

IMAGE = "debian:trixie-slim"


def status(connection: str) -> Any:
    return {"name": connection, "dns": {"search": ["ns.svc.cluster.local"], "nameservers": []}}


@pytest.fixture
def network(clean: str) -> str:
    """A network with our labels; its name."""
    labels = ["--label", f"telepresence.io/connection={clean}", "--label", "telepresence.io/role=network"]
    docker("network", "create", *labels, clean)
    return clean


class Session:
    """Engages on one network, in the foreground of the test."""

    def __init__(self, engine: Engine, network: str) -> None:
        self.engine, self.network = engine, network
        self.said = io.StringIO()

    def engage(self, control: StandIn, *words: str, tell: Any = None, **wish: Any) -> int:
        wish.setdefault("handler", dockerflags.parse([*words]) if words else None)
        wish.setdefault("name", self.network)
        found: Any = control
        reporter = Reporter("auto", self.said)
        return engaging.engage(self.engine, found, status(self.network), Engage("web", **wish), reporter, tell)

    def left(self) -> str:
        found = docker("ps", "-aq", "--filter", f"label=telepresence.io/connection={self.network}")
        return found + docker("volume", "ls", "-q", "--filter", f"label=telepresence.io/connection={self.network}")


@pytest.fixture
def session(engine: Engine, network: str) -> Session:
    return Session(engine, network)


def written(path: Path, name: str) -> str:
    return str(json.loads(path.read_text())[name])


@pytest.mark.engine
@pytest.mark.parametrize("kind", engaging.KINDS)
def test_the_handler_has_the_environment_and_its_exit_code_is_ours(
    session: Session, kind: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ports = [] if kind == "ingest" else [{"local": 8080, "remote": 80, "protocol": "tcp"}]
    control = StandIn(ports=ports, not_mounted=["/etc/one", "/etc/two"])
    show = 'printf "%s|%s|%s|" "$REMOTE" "$TELEPRESENCE_CONTAINER" "$TELEPRESENCE_ROOT"; test -s /tmp/env || exit 9; exit 7'
    file = tmp_path / "env.json"
    code = session.engage(
        control, "-v", f"{file}:/tmp/env", IMAGE, "sh", "-c", show,
        kind=kind, env_json=str(file), ports=["8080:80"] if ports else [], mounts=Mounts(root="/r"),
    )  # fmt: skip
    assert code == 7
    assert capfd.readouterr().out == "a\nb|app|/r|"
    assert control.asked[0]["kind"] == kind
    assert control.asked[0]["workload"] == "web"
    assert written(file, "REMOTE") == "a\nb"
    assert control.active is None
    assert session.left() == ""
    said = session.said.getvalue()
    assert "Using Deployment web" in said
    assert "Not mounted, for only directories can be: /etc/one, /etc/two\n" in said


@pytest.mark.engine
def test_names_labels_announcement_and_message(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    control = StandIn()
    other = docker("run", "-d", "--init", "--name", f"{session.network}-other", "--network", session.network,
                   "--network-alias", "other", IMAGE, "sleep", "60")  # fmt: skip
    seen: dict[str, Any] = {}

    def look() -> None:
        assert control.announced.wait(20)
        seen.update(session.engine.inspect(f"intercept-{session.network}-8080"))
        time.sleep(0.2)
        docker("stop", "-t", "0", f"intercept-{session.network}-8080")

    watcher = threading.Thread(target=look)
    watcher.start()
    words = ("--init", IMAGE, "sleep", "60")
    code = session.engage(control, *words, kind="intercept", address="other", wait_message="it runs")
    watcher.join()
    assert code in (137, 143)
    labels = seen["Config"]["Labels"]
    assert labels[names.LABEL_ENGAGEMENT] == "e1"
    assert labels[names.LABEL_ROLE] == "handler"
    assert seen["HostConfig"]["AutoRemove"]
    own = seen["NetworkSettings"]["Networks"][session.network]["IPAddress"]
    target = session.engine.inspect(other)["NetworkSettings"]["Networks"][session.network]["IPAddress"]
    assert control.handlers == [(own, target)]
    assert capfd.readouterr().out == "it runs\n"


@pytest.mark.engine
def test_nothing_has_run_when_the_agents_fail(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    control = StandIn()
    control.failure = Unavailable("the agent cannot take 80/tcp")
    with pytest.raises(Unavailable, match="cannot take"):
        session.engage(control, IMAGE, "echo", "it runs", kind="intercept")
    assert control.waited == 1
    assert "it runs" not in capfd.readouterr().out
    assert session.left() == ""


@pytest.mark.engine
def test_where_traffic_goes(session: Session) -> None:
    def target(address: str | None) -> str | None:
        return handling.target(session.engine, session.network, address)

    assert [target(None), target("localhost"), target("127.0.0.1"), target("::1")] == [None] * 4
    assert target("10.1.2.3") == "10.1.2.3"
    assert target("backend.default") == "backend.default"
    for address in ("", "a b", "host:80", "http://x", "-x", "x/y"):
        with pytest.raises(BadRequest, match="--address is a container's name"):
            handling.check_address(address)


@pytest.mark.engine
def test_what_is_built_is_run(session: Session, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text(f'FROM {IMAGE}\nENTRYPOINT ["echo", "built"]\n')
    build = Build(str(tmp_path), debug=True)
    seen: list[Any] = []

    def tell(engagement: Any, variables: Any) -> None:
        seen.append((engagement["name"], variables["PLAIN"]))
        seen.append(session.engine.inspect(f"intercept-{session.network}-8080"))

    handler = building.placeholder(["IMAGE", "and run"])
    assert session.engage(StandIn(), handler=handler, build=build, tell=tell) == 0
    try:
        assert capfd.readouterr().out == "built and run\n"
        assert seen[0] == (session.network, "x")
        assert seen[1]["HostConfig"]["CapAdd"] in (["SYS_PTRACE"], ["CAP_SYS_PTRACE"])
        assert seen[1]["HostConfig"]["SecurityOpt"] == ["apparmor=unconfined"]
        assert handler.image == "IMAGE"
    finally:
        docker("rmi", "-f", seen[1]["Image"])


@pytest.mark.engine
def test_a_build_that_fails_changes_nothing(session: Session, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    control = StandIn()
    with pytest.raises(BuildError):
        session.engage(control, handler=building.placeholder([]), build=Build(str(tmp_path)))
    assert control.asked == []


@pytest.mark.engine
def test_what_the_syntax_cannot_carry_ends_the_engagement(session: Session, tmp_path: Path) -> None:
    control = StandIn()
    with pytest.raises(BadRequest, match="variable REMOTE cannot be written in the syntax docker"):
        session.engage(control, IMAGE, "true", env_file=str(tmp_path / "env"))
    assert control.asked
    assert control.active is None
    assert session.left() == ""


@pytest.mark.engine
def test_a_name_that_is_taken_is_told_beforehand(session: Session) -> None:
    for kind, name in (("ingest", "intercept-{}"), ("wiretap", "intercept-{}-8080")):
        docker("create", "--name", name.format(session.network), IMAGE, "true")
        control = StandIn()
        with pytest.raises(BadRequest, match="there is a container"):
            session.engage(control, IMAGE, "true", kind=kind)
        assert control.asked == []


@pytest.mark.engine
def test_to_pod(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    image = names.image("daemon")
    serve = "import socket; s=socket.create_server(('',40001)); c=s.accept()[0]; c.sendall(b'of the pod'); c.close()"
    words = ["--name", f"{session.network}-pod", "--network", session.network, "--entrypoint", "python3"]
    pod = docker("run", "-d", *words, image, "-c", serve)
    address = session.engine.inspect(pod)["NetworkSettings"]["Networks"][session.network]["IPAddress"]
    item = {"port": 80, "protocol": "tcp", "address": address, "forward": 40001}
    ask = (
        "import socket,time\n"
        "for _ in range(100):\n"
        "    try: print(socket.create_connection(('localhost', 80), 5).recv(99)); break\n"
        "    except OSError: time.sleep(0.1)\n"
    )
    control = StandIn(to_pod=[item], ports=[])
    code = session.engage(control, "--entrypoint", "python3", image, "-c", ask, kind="ingest", to_pod=["80"])
    shown = capfd.readouterr()
    assert (code, shown.out) == (0, "b'of the pod'\n"), shown.err + session.said.getvalue()
    assert control.asked[0]["to_pod"] == ["80"]
    assert "telepresence:" not in session.said.getvalue()
    assert session.left() == ""


@pytest.mark.engine
def test_the_helper_ends_with_the_handler_and_says_why_it_cannot_begin(session: Session) -> None:
    engine, network = session.engine, session.network
    item = {"port": 9000, "protocol": "udp", "address": "127.0.0.1", "forward": 9001}
    engaged = engagement(id=network, name=network, to_pod=[item, {**item, "protocol": "tcp"}])
    handler = docker("run", "-d", "--init", "--name", f"{network}-handler", "--network", network, IMAGE, "sleep", "60")
    topod.start(engine, network, engaged, handler)
    helpers = [found["Id"] for found in engine.containers(network, names.ROLE_TOOL, engagement=network)]
    assert len(helpers) == 1
    docker("rm", "-f", handler)
    deadline = time.monotonic() + 10
    while engine.inspect(helpers[0])["State"]["Running"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert engine.inspect(helpers[0])["State"]["ExitCode"] == 0
    topod.remove(engine, network, engaged)
    assert session.left() == ""

    wait = "import socket,time\nwhile socket.socket().connect_ex(('127.0.0.1', 9000)): time.sleep(0.05)\n"
    script = "import socket,time; s=socket.create_server(('127.0.0.1',9000)); time.sleep(60)"
    words = ["--name", f"{network}-handler", "--network", network, "--entrypoint", "python3", names.image("daemon")]
    handler = docker("run", "-d", *words, "-c", script)
    docker("exec", handler, "python3", "-c", wait)
    with pytest.raises(Unavailable, match="--to-pod does not work: localhost:9000/tcp: Address already in use"):
        topod.start(engine, network, engaged, handler)
    topod.remove(engine, network, engaged)


RUN = dockerflags.DockerRun(image="x")


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"kind": "swap"}, "no engagement of the kind 'swap'"),
        ({"kind": "ingest", "ports": ["80"]}, "ingest takes no traffic, so it has no --port"),
        ({"kind": "ingest", "address": "x"}, "ingest takes no traffic, so it has no --address"),
        ({"kind": "ingest", "service": "x"}, "ingest takes a container, not a Service"),
        ({"kind": "replace", "service": "x"}, "replace takes a container, not a Service"),
        ({"workload": ""}, "workload's name is empty"),
        ({"name": "a/b"}, "cannot be named 'a/b'"),
        ({"ports": ["x"]}, "LOCAL is a number"),
        ({"kind": "intercept", "ports": ["all"]}, "LOCAL is a number"),
        ({"to_pod": ["x"]}, "PORT is a number"),
        ({"ports": ["80"], "to_pod": ["80"]}, "both its own port and the pod's"),
        ({"address": "x:80"}, "--address"),
        ({"env_syntax": "fish"}, "--env-syntax"),
        ({"env_file": "/nowhere/x"}, "--env-file"),
        ({"build": Build("/nowhere")}, "no folder /nowhere"),
        ({"handler": dockerflags.parse(["-d", "x"])}, "-d/--detach is not possible"),
        ({"handler": dockerflags.parse(["--restart=always", "x"])}, "--restart is not possible"),
        ({"handler": dockerflags.parse(["IMAGE"])}, "IMAGE stands for what --docker-build builds"),
    ],
)
def test_bad_input_is_one_line(wish: dict[str, Any], said: str) -> None:
    with pytest.raises(TeleError, match=said) as error:
        engaging.request(dataclasses.replace(Engage("web", RUN), **wish))
    assert isinstance(error.value, (BadRequest, NotFound))
    assert "\n" not in str(error.value)


def test_the_request() -> None:
    wish = Engage("web", RUN, "intercept", "mine", "app", "front", ["8080:http,53:53/udp"], ["5432"])
    assert engaging.request(wish) == {
        "kind": "intercept",
        "workload": "web",
        "name": "mine",
        "container": "app",
        "service": "front",
        "ports": ["8080:http", "53:53/udp"],
        "to_pod": ["5432"],
    }
    plain = {"kind": "replace", "workload": "web", "name": "web", "ports": [], "to_pod": []}
    assert engaging.request(Engage("web", RUN)) == engaging.request(Engage("web", RUN, ports=["all"])) == plain


def test_the_remote_environment_wins_over_what_is_added() -> None:
    found = handling.variables(engagement(environment={"TELEPRESENCE_CONTAINER": "remote"}), Mounts(root="/r"))
    assert found == {"TELEPRESENCE_CONTAINER": "remote", "TELEPRESENCE_ROOT": "/r"}
