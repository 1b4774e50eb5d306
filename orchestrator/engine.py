"""The Docker Engine, by the ``docker`` package: found as the Docker CLI finds it, its errors told in one line."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrator.reading import Reader
from telewire import names
from telewire.errors import Conflict, Forbidden, NotFound, TeleError, Unavailable

if TYPE_CHECKING:
    from docker import APIClient

TIMEOUT = 120
"""Seconds for one call: removing a network takes 45 s when its plugin is disabled."""


class Engine:
    """One Docker Engine.

    :raises Unavailable: no engine answers
    :raises Forbidden: it may not be used by this user
    """

    def __init__(self) -> None:
        self.address, self._tls = _address()
        _refuse_elsewhere(self.address)
        url = urlsplit(self.address)
        self._reader = Reader(url.netloc + url.path, TIMEOUT) if url.scheme == "unix" else None
        if self._reader:
            try:
                self._reader.get("/_ping")
            except OSError as error:
                raise self._unusable(str(error)) from None
        else:
            self.api  # noqa: B018 - connects

    def prepare(self) -> None:
        """Begin to import what :attr:`api` needs, while the caller waits for something else."""
        threading.Thread(target=importlib.import_module, args=("docker",), daemon=True).start()

    def close(self) -> None:
        """Close the connections to the engine; the next call opens new ones."""
        if api := self.__dict__.pop("api", None):
            api.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @cached_property
    def api(self) -> APIClient:
        """The ``docker`` package's client; imported when first used, for that takes long."""
        import docker
        import docker.errors
        import requests.exceptions
        from docker.utils.utils import kwargs_from_env

        keywords: dict[str, Any] = dict(kwargs_from_env()) if os.environ.get("DOCKER_HOST") else {"tls": self._tls}
        keywords.setdefault("base_url", self.address)
        try:
            return docker.APIClient(version="auto", timeout=TIMEOUT, **keywords)
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            raise self._unusable(str(error)) from None

    def _unusable(self, text: str) -> TeleError:
        """Return the error for an engine that cannot be reached."""
        if "ermission denied" in text:
            return Forbidden(
                f"Docker at {self.address} may not be used by this user; add the user to the group docker, or use sudo"
            )
        if any(sign in text for sign in ("FileNotFound", "No such file", "refused", "aborted")):
            return Unavailable(
                f"no Docker Engine answers at {self.address}; start it (for example `systemctl start docker`), "
                "or set DOCKER_HOST"
            )
        return Unavailable(f"Docker at {self.address} cannot be used: {_line(text)}")

    @cached_property
    def id(self) -> str:
        """The engine's own ID, the same after a restart."""
        with self.told("asking the engine for its ID"):
            return str(self._reader.get("/info")["ID"] if self._reader else self.api.info()["ID"])

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Turn the ``docker`` package's errors into one line that says what was being done."""
        try:
            yield
        except TeleError as error:
            raise type(error)(f"{what}: {_line(str(error))}") from error
        except Exception as error:
            ours = self._refusal(what, error)
            if ours is error:
                raise
            raise ours from error

    def _refusal(self, what: str, error: Exception) -> Exception:
        """Return the error of ours that one of the ``docker`` package stands for; others stay what they are."""
        import docker.errors
        import requests.exceptions

        if isinstance(error, docker.errors.APIError):
            kinds: dict[int, type[TeleError]] = {404: NotFound, 409: Conflict, 403: Forbidden}
            return kinds.get(error.status_code or 500, Unavailable)(f"{what}: {_line(str(error.explanation or error))}")
        if isinstance(error, (docker.errors.DockerException, requests.exceptions.RequestException, OSError)):
            return Unavailable(f"{what}: Docker at {self.address} broke off: {_line(str(error))}")
        return error

    def containers(self, connection: str | None = None, role: str | None = None, **labels: str) -> list[dict[str, Any]]:
        """Return our containers, running or not, as the engine lists them."""
        return self.all_containers(_filter(connection, role, labels), True)

    def all_containers(
        self, filters: dict[str, list[str]] | None = None, stopped: bool = False
    ) -> list[dict[str, Any]]:
        """Return containers, ours and others', as the engine lists them."""
        with self.told("listing containers"):
            if self._reader:
                return list(self._reader.get("/containers/json", all=stopped, filters=filters or {}))
            return list(self.api.containers(all=stopped, filters=filters))

    def networks(self, connection: str | None = None) -> list[dict[str, Any]]:
        """Return our networks, as the engine lists them."""
        return self.all_networks(_filter(connection, names.ROLE_NETWORK, {}))

    def all_networks(self, filters: dict[str, list[str]] | None = None) -> list[dict[str, Any]]:
        """Return networks, ours and others', as the engine lists them."""
        with self.told("listing networks"):
            if self._reader:
                return list(self._reader.get("/networks", filters=filters or {}))
            return list(self.api.networks(filters=filters))

    def volumes(self, connection: str | None = None, **labels: str) -> list[dict[str, Any]]:
        """Return our volumes, as the engine lists them (those of a disabled plugin are not)."""
        with self.told("listing volumes"):
            filters = _filter(connection, names.ROLE_VOLUME, labels)
            found = self._reader.get("/volumes", filters=filters) if self._reader else self.api.volumes(filters=filters)
            return list(found["Volumes"] or [])

    def inspect(self, container: str) -> dict[str, Any]:
        """Return everything the engine knows of a container.

        :raises NotFound: it is not there
        """
        with self.told(f"inspecting the container {container}"):
            if self._reader:
                return dict(self._reader.get(f"/containers/{container}/json"))
            return dict(self.api.inspect_container(container))

    def stop(self, container: str, grace: int | None = None) -> None:
        """Stop a container in order; no error if it is gone.

        :param grace: seconds until it is killed, default the container's own
        """
        with contextlib.suppress(NotFound), self.told(f"stopping the container {container}"):
            self.api.stop(container, timeout=grace)

    def remove_container(self, container: str) -> None:
        """Remove a container, running or not, and wait until it is gone."""
        try:
            with self.told(f"removing the container {container}"):
                self.api.remove_container(container, v=True, force=True)
        except NotFound:
            return
        except Conflict:
            self.wait_gone(container)

    def wait_gone(self, container: str, seconds: float = 15.0) -> bool:
        """Wait until a container that is being removed is gone; return whether it is."""
        import time

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.inspect(container)
            except NotFound:
                return True
            time.sleep(0.05)
        return False

    def plugin(self, plugin: str) -> dict[str, Any]:
        """Return everything the engine knows of a managed plugin.

        :raises NotFound: it is not installed
        """
        with self.told(f"looking for the plugin {plugin}"):
            if self._reader:
                return dict(self._reader.get(f"/plugins/{plugin}/json"))
            return dict(self.api.inspect_plugin(plugin))  # type: ignore[no-untyped-call]

    def require_plugin(self, plugin: str, make: str = "make plugins") -> None:
        """Check that a managed plugin is there and enabled.

        :raises NotFound: it is not installed
        :raises Unavailable: it is disabled
        """
        try:
            found = self.plugin(plugin)
        except NotFound:
            raise NotFound(
                f"the Docker plugin {plugin} is not installed; get it by `{make}` in the project's folder, or by "
                f"`docker plugin install --alias {plugin} --grant-all-permissions REGISTRY/{plugin}`"
            ) from None
        if not found["Enabled"]:
            raise Unavailable(f"the Docker plugin {plugin} is disabled; enable it by `docker plugin enable {plugin}`")

    def has_image(self, image: str) -> bool:
        """Return whether the engine has an image."""
        try:
            with self.told(f"looking for the image {image}"):
                if self._reader:
                    self._reader.get(f"/images/{image}/json")
                else:
                    self.api.inspect_image(image)  # type: ignore[no-untyped-call]
        except NotFound:
            return False
        return True


def docker_command() -> str:
    """Return the path of Docker's command.

    :raises NotFound: it is not in ``PATH``
    """
    path = shutil.which("docker")
    if path is None:
        raise NotFound(
            "the docker command is not in PATH; install Docker's CLI: it runs the containers as `docker run`"
        )
    return path


def _filter(connection: str | None, role: str | None, labels: dict[str, str]) -> dict[str, list[str]]:
    """Return the engine's filter for our labels."""
    wanted = [names.LABEL_CONNECTION if connection is None else f"{names.LABEL_CONNECTION}={connection}"]
    if role is not None:
        wanted.append(f"{names.LABEL_ROLE}={role}")
    wanted += [f"telepresence.io/{key}={value}" for key, value in labels.items()]
    return {"label": wanted}


def _address() -> tuple[str, Any]:
    """Return the engine's address and TLS settings: ``DOCKER_HOST``, else the CLI's current context."""
    if host := os.environ.get("DOCKER_HOST"):
        return host, None
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    context = os.environ.get("DOCKER_CONTEXT") or ""
    if not context:
        try:
            context = str(json.loads((folder / "config.json").read_bytes()).get("currentContext") or "")
        except (OSError, ValueError, AttributeError):
            context = ""
    if context in ("", "default"):
        return "unix:///var/run/docker.sock", None
    from docker.context import ContextAPI

    found = ContextAPI.get_context(context)
    if found is None:
        raise NotFound(f"there is no Docker context {context!r}; see `docker context ls`")
    return str(found.Host), found.TLSConfig


def _refuse_elsewhere(address: str) -> None:
    """Refuse an engine on another machine: its published loopback ports cannot be reached from here."""
    url = urlsplit(address)
    local = url.scheme in ("unix", "npipe", "") or (
        url.scheme in ("tcp", "http", "https") and (url.hostname or "") in ("localhost", "127.0.0.1", "::1", "")
    )
    if not local:
        raise Unavailable(
            f"the Docker Engine at {address} is on another machine, where the daemon's control port cannot be reached "
            "from here; use an engine on this machine (DOCKER_HOST, `docker context use`)"
        )


def _line(text: str) -> str:
    """Return a text as one line, less the boilerplate that Docker puts around it."""
    line = " ".join(text.split())
    for prefix in ("Error response from daemon: ", "Error while fetching server API version: "):
        line = line.removeprefix(prefix)
    return line
