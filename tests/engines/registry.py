"""A registry (Debian's docker-registry, without TLS on a loopback address) with the plugins in it, as a user installs them from one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from telewire import __version__

REPOSITORY = Path(__file__).parents[2]
PLUGINS = ("teleroute", "telemount")
VERSION, NEXT = __version__, f"{__version__}-next"
"""The tags that every plugin has; the second is for upgrades."""


def docker(*arguments: str) -> str:
    """Run docker on the machine's own engine; return what it prints on stdout."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments[:3])}: {done.stderr}"
    return done.stdout.strip()


class Registry:
    """The registry's files, kept between runs, and its processes: one wherever it is needed, always on the same port."""

    def __init__(self, folder: Path) -> None:
        assert shutil.which("docker-registry"), "docker-registry is not installed; run tools/setup.sh test"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._folder = folder

    def reference(self, plugin: str, version: str = VERSION) -> str:
        """Return what ``docker plugin install`` is told."""
        return f"localhost:{self.port}/telepresence/{plugin}:{version}"

    @contextlib.contextmanager
    def serving(self, process: int | None = None) -> Iterator[None]:
        """Serve in this network namespace, or in the one of ``process``."""
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder.with_suffix(f".{process or 'here'}.yaml")
        # A plugin is pushed and pulled without credentials, as from any public registry.
        config.write_text(yaml.safe_dump({
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder)}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }))  # fmt: skip
        enter = ["nsenter", "-t", str(process), "-n"] if process else []
        server = subprocess.Popen(
            [*enter, "docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            dial = [*enter, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self.port}"]
            deadline = time.monotonic() + 20
            while subprocess.run(dial, capture_output=True).returncode:
                assert server.poll() is None, "docker-registry ended at once"
                assert time.monotonic() < deadline, "docker-registry does not answer"
                time.sleep(0.05)
            yield
        finally:
            server.kill()
            server.wait()
            config.unlink()

    def fill(self) -> None:
        """Push both plugins in both versions, from the machine's own engine, unless they are there."""
        wanted, images = hashlib.sha256(), {}
        for plugin in PLUGINS:
            images[plugin] = docker("build", "-q", "-t", f"telepresence/{plugin}-rootfs", "-f",
                                    str(REPOSITORY / f"Dockerfile.{plugin}"), str(REPOSITORY))  # fmt: skip
            wanted.update(images[plugin].encode() + (REPOSITORY / "plugin-configs" / f"{plugin}.json").read_bytes())
        key = self._folder / "key"
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if key.exists() and key.read_text() == wanted.hexdigest():
                return
            shutil.rmtree(self._folder)
            with self.serving():
                for plugin, image in images.items():
                    self._push(plugin, image)
            key.write_text(wanted.hexdigest())

    def _push(self, plugin: str, image: str) -> None:
        made = self._folder / plugin
        (made / "rootfs").mkdir(parents=True)
        try:
            container = docker("create", image)
            try:
                with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
                    subprocess.run(["tar", "-x", "-C", str(made / "rootfs")], stdin=export.stdout, check=True)
            finally:
                docker("rm", container)
            shutil.copy(REPOSITORY / "plugin-configs" / f"{plugin}.json", made / "config.json")
            for version in (VERSION, NEXT):
                # An engine takes no two plugins with the same files.
                (made / "rootfs" / "etc" / "plugin-version").write_text(version)
                docker("plugin", "create", self.reference(plugin, version), str(made))
                try:
                    docker("plugin", "push", self.reference(plugin, version))
                finally:
                    docker("plugin", "rm", self.reference(plugin, version))
        finally:
            shutil.rmtree(made)
