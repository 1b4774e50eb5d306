"""Read kubeconfig files as kubectl does, and flatten one context: files embedded, commands left to run here.

Rules: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
and https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.execplugin import Credentials, ExecPlugin
from telewire.errors import BadRequest, NotFound

_CLUSTER_FILES = {"certificate-authority": "certificate-authority-data"}
_USER_FILES = {"client-certificate": "client-certificate-data", "client-key": "client-key-data"}
_CLUSTER_KEYS = {"server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url"}
_USER_KEYS = {
    "client-certificate-data",
    "client-key-data",
    "token",
    "username",
    "password",
    "as",
    "as-uid",
    "as-groups",
    "as-user-extra",
}


@dataclass(frozen=True)
class _Entry:
    """One named entry and the folder that its relative paths start from."""

    body: dict[str, Any]
    folder: Path
    file: Path


@dataclass
class _Merged:
    """Several kubeconfig files as one."""

    sources: list[Path] = field(default_factory=list)
    current: str = ""
    contexts: dict[str, _Entry] = field(default_factory=dict)
    clusters: dict[str, _Entry] = field(default_factory=dict)
    users: dict[str, _Entry] = field(default_factory=dict)


@dataclass
class KubeContext:
    """One context of the user's kubeconfig, with nothing left that only this machine's files could answer.

    :ivar paths: the kubeconfig files it came from, absolute, joined as in ``KUBECONFIG``
    :ivar cluster: the cluster's entry, certificate files embedded
    :ivar user: the user's entry, certificate files embedded, without ``exec`` and ``tokenFile``
    :ivar exec_plugin: the command that gives the credentials, to be run on this machine
    :ivar token_file: the file that holds the token and may be rewritten by others
    """

    name: str
    namespace: str
    paths: str
    cluster: dict[str, Any]
    user: dict[str, Any]
    exec_plugin: ExecPlugin | None = None
    token_file: Path | None = None

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self.cluster["server"])

    def credentials(self, interactive: bool) -> Credentials | None:
        """Return what the exec plugin or the token file says now; None if the credentials are all in the file.

        :param interactive: whether the plugin may ask the person at the terminal
        """
        if self.exec_plugin:
            return self.exec_plugin.run(interactive)
        if self.token_file:
            return Credentials(token=_read(self.token_file, "the token").decode().strip())
        return None

    def document(self, credentials: Credentials | None) -> dict[str, object]:
        """Return a kubeconfig of this one context, complete in itself."""
        user = dict(self.user)
        if credentials:
            user.update(credentials.as_user())
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "contexts": [
                {"name": self.name, "context": {"cluster": "cluster", "user": "user", "namespace": self.namespace}}
            ],
            "clusters": [{"name": "cluster", "cluster": self.cluster}],
            "users": [{"name": "user", "user": user}],
        }


def files(explicit: str | None, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the kubeconfig files to read: ``--kubeconfig``, else ``KUBECONFIG``, else ``~/.kube/config``."""
    if explicit:
        path = Path(explicit).expanduser().absolute()
        if not path.is_file():
            raise NotFound(f"the kubeconfig {path} is not there; check --kubeconfig")
        return [path]
    listed = [Path(part).absolute() for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    if not listed:
        listed = [Path(environment.get("HOME") or Path.home()) / ".kube" / "config"]
    found = [path for path in dict.fromkeys(listed) if path.is_file()]
    if not found:
        where = ", ".join(map(str, listed))
        raise NotFound(f"there is no kubeconfig: {where} is not there; set KUBECONFIG or give --kubeconfig FILE")
    return found


def load(
    explicit: str | None = None,
    context: str | None = None,
    namespace: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> KubeContext:
    """Read the user's kubeconfig and flatten one context of it.

    :param explicit: the value of ``--kubeconfig``: then only that file counts
    :param context: the context's name, default ``current-context``
    :param namespace: wins over the context's own
    :raises NotFound: a file, the context, or what it refers to is missing
    :raises BadRequest: a file is malformed, or uses what cannot be honoured
    """
    merged = _merge(files(explicit, environment))
    where = ", ".join(map(str, merged.sources))
    wanted = context or merged.current
    if not wanted:
        names = ", ".join(sorted(merged.contexts)) or "none"
        raise NotFound(f"the kubeconfig {where} has no current context; choose one with --context: {names}")
    entry = merged.contexts.get(wanted)
    if entry is None:
        names = ", ".join(sorted(merged.contexts)) or "none"
        raise NotFound(f"the kubeconfig {where} has no context {wanted!r}; there are: {names}")
    cluster = _referred(merged.clusters, entry, "cluster", wanted)
    body = _embedded(cluster, _CLUSTER_FILES)
    if not body.get("server"):
        raise BadRequest(f"the cluster of context {wanted!r} in {cluster.file} has no `server`; add its URL")
    found = KubeContext(
        name=wanted,
        namespace=namespace or str(entry.body.get("namespace") or "default"),
        paths=os.pathsep.join(map(str, merged.sources)),
        cluster={key: value for key, value in body.items() if key in _CLUSTER_KEYS and value not in (None, "")},
        user={},
    )
    if entry.body.get("user"):
        _flatten_user(found, _referred(merged.users, entry, "user", wanted), body)
    return found


def _flatten_user(found: KubeContext, user: _Entry, cluster: dict[str, Any]) -> None:
    """Put the user's entry into ``found``."""
    if user.body.get("auth-provider"):
        name = (user.body["auth-provider"] or {}).get("name", "?")
        raise BadRequest(
            f"context {found.name!r} logs in by the legacy auth-provider {name!r} in {user.file}, which Kubernetes "
            "removed in 1.26; replace it by an exec plugin or a token"
        )
    body = _embedded(user, _USER_FILES)
    found.user = {key: value for key, value in body.items() if key in _USER_KEYS and value not in (None, "", [], {})}
    if "token" in found.user:
        found.user["token"] = str(found.user["token"])
    if body.get("tokenFile"):
        found.token_file = user.folder / str(body["tokenFile"])
        found.user.pop("token", None)
    if body.get("exec"):
        found.exec_plugin = ExecPlugin.parse(body["exec"], user.folder, str(user.file), cluster)


def _merge(paths: list[Path]) -> _Merged:
    """Merge files: of each name and of ``current-context``, the first file's value counts whole."""
    merged = _Merged(sources=paths)
    for path in paths:
        document = _parse(path)
        merged.current = merged.current or str(document.get("current-context") or "")
        for key, into in (("contexts", merged.contexts), ("clusters", merged.clusters), ("users", merged.users)):
            singular = key[:-1]
            for item in document.get(key) or []:
                if not isinstance(item, dict) or "name" not in item:
                    raise BadRequest(f"the kubeconfig {path} is malformed: an entry of `{key}` has no name; mend it")
                into.setdefault(str(item["name"]), _Entry(item.get(singular) or {}, path.parent, path))
    return merged


def _parse(path: Path) -> dict[str, Any]:
    """Read one kubeconfig file."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = _read(path, "the kubeconfig")
    try:
        document = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise BadRequest(f"the kubeconfig {path} is not YAML: {' '.join(str(error).split())}; mend it") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadRequest(f"the kubeconfig {path} is malformed: no mapping at its top; mend it")
    return document


def _referred(entries: dict[str, _Entry], context: _Entry, kind: str, name: str) -> _Entry:
    """Return the cluster or the user that a context names."""
    wanted = str(context.body.get(kind) or "")
    entry = entries.get(wanted)
    if entry is None:
        raise NotFound(f"context {name!r} in {context.file} names the {kind} {wanted!r}, which is not there; mend it")
    return entry


def _embedded(entry: _Entry, keys: dict[str, str]) -> dict[str, Any]:
    """Return the entry's body with each file that it names embedded; data that is there already wins."""
    body = dict(entry.body)
    for key, data_key in keys.items():
        name = body.pop(key, None)
        if name and not body.get(data_key):
            content = _read(entry.folder / str(name), f"`{key}` of {entry.file}")
            body[data_key] = base64.b64encode(content).decode()
    return body


def _read(path: Path, what: str) -> bytes:
    """Read a file that the kubeconfig needs."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"{what} cannot be read: {path}: {error.strerror}; check the path and who may read it") from None
