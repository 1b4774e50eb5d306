"""Show the main job end to end, live: each command before it runs, what it printed, and whether that is true.

Uses the development cluster, or the one that KUBECONFIG (and ``--context``) names.
Fails at the first thing that is not true.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import host
from kube import Kube, devcluster_kubeconfig
from kubernetes.config import ConfigException

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
BOLD, GREEN, RESET = (
    ("\033[1m", "\033[32m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "", "")
)


class UntrueError(Exception):
    """What the demo shows did not hold."""


def show(command: list[str]) -> None:
    """Print a command as a person would type it."""
    print(f"\n{BOLD}$ {shlex.join(command)}{RESET}", flush=True)


def check(said: str, holds: bool, seen: object = "") -> None:
    """Print what was found to be true; raise UntrueError otherwise."""
    if not holds:
        raise UntrueError(f"{said}: not so; seen: {seen!r}")
    print(f"  {GREEN}✔{RESET} {said}", flush=True)


def until(find: Callable[[], str], wanted: str, seconds: float = 30) -> str:
    """Call ``find`` until its answer contains ``wanted`` or the time is up; return the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen = find()
        except (RuntimeError, OSError) as error:
            seen = str(error)
        if wanted in seen or time.monotonic() > deadline:
            return seen
        time.sleep(0.2)


class Demo:
    """One run of the demo against one cluster."""

    def __init__(self, kubeconfig: str, context: str | None) -> None:
        self.kube = Kube(kubeconfig, context)
        self.context = ["--context", context] if context else []
        self.environment = {**os.environ, "KUBECONFIG": kubeconfig, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def run(self, *command: str, expect: int = 0) -> str:
        """Show and run a command; return what it printed on stdout."""
        show(list(command))
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, cwd=ROOT)
        for line in (done.stderr + done.stdout).splitlines()[:20]:
            print(f"  {line}")
        if done.returncode != expect:
            raise UntrueError(f"{shlex.join(command)} ended with {done.returncode}, not {expect}")
        return done.stdout

    def terminal(self, command: list[str], typed: str, wanted: str) -> str:
        """Show a command, run it on a pseudo-terminal, type into it once it answers; return what the screen showed."""
        show(command)
        pid, screen = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], command, self.environment)
        text, sent, deadline = "", False, time.monotonic() + 60
        while time.monotonic() < deadline:
            if select.select([screen], [], [], 0.5)[0]:
                try:
                    text += os.read(screen, 65536).decode(errors="replace")
                except OSError:
                    break
            if not sent and re.search(r"[#$] ?(\x1b\[[?0-9;]*[a-z])*$", text):
                os.write(screen, typed.encode())
                sent = True
        _, status = os.waitpid(pid, 0)
        for line in text.splitlines():
            print(f"  {line}")
        check(f"the shell saw {wanted!r}", wanted in text, text)
        check("the shell's exit code came back", os.waitstatus_to_exitcode(status) == 3, status)
        return text

    @contextlib.contextmanager
    def foreground(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Show and start a command in the foreground of another terminal; end it with Ctrl-C if it still runs."""
        show(list(command))
        child = subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
            child.wait(90)

    def session(self) -> None:
        """Show the whole session."""
        host_before, cluster_before = host.network(), self.kube.traces()
        started = time.monotonic()
        self.run("telepresence", "connect", "--docker", *self.context)
        print(f"  connected in {time.monotonic() - started:.1f} s")
        listed = self.run("telepresence", "list")
        check(
            "the sample's workloads are listed",
            all(name in listed for name in ("frontend-v1", "backend", "quotes", "clock")),
            listed,
        )

        answer = self.run("telepresence", "curl", "-sS", "http://frontend-v1/")
        check("a cluster service answered by its bare name, from a container", '"v1"' in answer, answer)
        self.terminal(
            ["telepresence", "docker-run", "-it", "--rm", "debian", "bash"],
            "exec 3<>/dev/tcp/backend/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -c 12 <&3; echo; exit 3\n",
            "HTTP/1.1 200",
        )

        before = json.loads(self.kube.get("http://frontend-v1/env"))
        pod = self.kube.pods("frontend-v1")[0].metadata
        started = time.monotonic()
        with self.foreground("telepresence", "replace", "frontend-v1", "--docker-run", "--", "frontend-v2"):
            seen = until(lambda: self.kube.get("http://frontend-v1/"), '"v2"')
            took = time.monotonic() - started
            check(
                f"from another pod, the service is answered by frontend-v2 here ({took:.1f} s)",
                '"v2"' in seen,
                seen,
            )
            until(lambda: str(self.kube.answers("frontend-v1", "v2")), "True")
            here = json.loads(self.kube.get("http://frontend-v1/env"))
            differing = [
                name for name, value in before.items() if name not in ("PATH", "HOME") and here.get(name) != value
            ]
            check(f"the {len(before)} environment variables are the same, byte for byte", not differing, differing)
            secret = base64.b64decode(here["FRONTEND_SECRET"])
            check("also the one with line breaks and quotes", b"\n" in secret and b'"' in secret, secret)
            now = self.kube.pods("frontend-v1")[0].metadata
            check("the pod is the same one, not a new one", now.uid == pod.uid, now.name)
            check("the engaged workload is told as such", "frontend-v1" in self.run("telepresence", "status"))
            check("the host's network is as it was before", host.network() == host_before)
        self.original_answers()
        self.engagements()

        self.run("telepresence", "quit")
        left = host.engine()
        check("nothing is left in the engine", not any(left.values()), left)
        check("the host's network is as it was before", host.network() == host_before)
        traces = self.kube.settled(cluster_before)
        check("nothing is left in the cluster", traces == cluster_before, traces)

    def original_answers(self) -> None:
        """Show that the application answers again."""
        until(lambda: str(self.kube.answers("frontend-v1", "v1")), "True")
        seen = self.kube.get("http://frontend-v1/")
        check("after the handler has ended, frontend-v1 answers again", '"v1"' in seen, seen)

    def identity(self) -> dict[str, int]:
        """Return the restart count of each pod of the frontend, by UID."""
        pods = self.kube.pods("frontend-v1")
        return {pod.metadata.uid: sum(one.restart_count for one in pod.status.container_statuses) for pod in pods}

    def handler_sees(self, *command: str) -> str:
        """Return what a command prints in the handler's container; nothing while there is none."""
        listing = ["docker", "ps", "-q", "--filter", "label=telepresence.io/role=handler"]
        found = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
        if not found:
            return ""
        return subprocess.run(["docker", "exec", found[0], *command], capture_output=True, text=True).stdout

    def engagements(self) -> None:
        """Show the ways to engage that restart nothing, and a handler built on the spot."""
        before = self.identity()
        handler = ["--docker-run", "--", "frontend-v2"]
        started = time.monotonic()
        with self.foreground("telepresence", "intercept", "frontend-v1", "--port", "8080", *handler):
            seen = until(lambda: self.kube.get("http://frontend-v1/"), '"v2"')
            took = time.monotonic() - started
            check(f"the service is answered by frontend-v2 here ({took:.1f} s)", '"v2"' in seen, seen)
            address = self.kube.pods("frontend-v1")[0].status.pod_ip
            seen = self.kube.get(f"http://{address}:8080/")
            check("and so is the pod's own address", '"v2"' in seen, seen)
            check("no pod was restarted", self.identity() == before, self.identity())
            self.run("telepresence", "leave", "frontend-v1")
        self.original_answers()

        with self.foreground("telepresence", "wiretap", "frontend-v1", "--port", "8080", *handler):

            def tapped() -> str:
                seen = self.kube.get("http://frontend-v1/")
                if '"v1"' not in seen:
                    raise UntrueError(f"a wiretapped request was not answered by the pod; seen: {seen!r}")
                return self.run_quietly("telepresence", "status")

            seen = until(tapped, " copies here, 0 lost")
            check("the pod answers, and a copy of the request came here", " copies here, 0 lost" in seen, seen)

        with self.foreground("telepresence", "ingest", "frontend-v1", *handler):
            seen = until(lambda: self.handler_sees("cat", "/etc/frontend/greeting.txt"), "Hello")
            check("the remote container's files are here", "Hello from the cluster" in seen, seen)
            seen = self.handler_sees("printenv", "FRONTEND_SECRET")
            check("and its environment", "SAMPLE" in seen, seen)
            seen = self.kube.get("http://frontend-v1/")
            check("no request comes here: the pod answers", '"v1"' in seen, seen)
        check("no pod was restarted by any of these", self.identity() == before, self.identity())

        built = ["--docker-build", "images/frontend-v2", "--docker-build-opt", "tag=mytag", "--", "IMAGE"]
        with self.foreground("telepresence", "replace", "frontend-v1", *built):
            seen = until(lambda: self.kube.get("http://frontend-v1/"), '"v2"', 90)
            check("the image that was just built answers", '"v2"' in seen, seen)
            self.run("telepresence", "leave", "frontend-v1")
        subprocess.run(["docker", "rmi", "mytag"], capture_output=True)
        self.original_answers()

    def run_quietly(self, *command: str) -> str:
        """Return what a command prints; it is asked again and again, so it is not shown."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, cwd=ROOT
        ).stdout


def ensure_images() -> None:
    """Make the two images that the session names: `debian` and `frontend-v2`."""
    if subprocess.run(["docker", "image", "inspect", "debian"], capture_output=True).returncode:
        subprocess.run(["docker", "tag", "debian:trixie-slim", "debian:latest"], check=True)
    command = ["docker", "build", "-q", "-t", "frontend-v2", str(ROOT / "images" / "frontend-v2")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Run the demo; return 1 with one line on stderr if anything it shows is not true."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", help="the kubeconfig context to use")
    options = parser.parse_args()
    ensure_images()
    try:
        demo = Demo(os.environ.get("KUBECONFIG") or devcluster_kubeconfig(), options.context)
    except ConfigException as error:
        print(f"demo: {error}; see `kubectl config get-contexts`", file=sys.stderr)
        return 1
    try:
        demo.session()
    except (UntrueError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        subprocess.run(["telepresence", "quit", "-s"], env=demo.environment, cwd=ROOT)
        return 1
    print("\ndemo: all that was shown is true")
    return 0


if __name__ == "__main__":
    sys.exit(main())
