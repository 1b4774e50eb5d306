"""Run the credential plugins (``exec``) of a kubeconfig, on the user's machine.

Protocol: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from telewire.errors import BadRequest, Forbidden, NotFound, Unavailable

_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_EXTENSION = "client.authentication.k8s.io/exec"
TIMEOUT = 300.0
"""Seconds that a plugin may take; it may wait for a person to log in."""


@dataclass(frozen=True)
class Credentials:
    """What a plugin or a token file gave. ``certificate`` and ``key`` are PEM text; ``expires`` is RFC 3339."""

    token: str | None = None
    certificate: str | None = None
    key: str | None = None
    expires: str | None = None

    def as_user(self) -> dict[str, str]:
        """Return these credentials as fields of a kubeconfig's user."""
        user: dict[str, str] = {}
        if self.token:
            user["token"] = self.token
        if self.certificate and self.key:
            user["client-certificate-data"] = base64.b64encode(self.certificate.encode()).decode()
            user["client-key-data"] = base64.b64encode(self.key.encode()).decode()
        return user

    def as_update(self) -> dict[str, str]:
        """Return these credentials as the control API's ``PUT /v1/credentials`` takes them."""
        update = {key.replace("-", "_"): value for key, value in self.as_user().items()}
        if self.expires:
            update["expires"] = self.expires
        return update

    def expiry(self) -> float | None:
        """Return when they expire, in seconds since the epoch; None if they did not say."""
        if not self.expires:
            return None
        return datetime.fromisoformat(self.expires.replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True)
class ExecPlugin:
    """One ``exec`` entry of a kubeconfig."""

    command: str
    arguments: list[str]
    environment: dict[str, str]
    version: str
    mode: str
    hint: str
    cluster: dict[str, Any] | None = field(repr=False)
    """What the plugin is told of the cluster, if it asked to be told."""

    @classmethod
    def parse(cls, body: dict[str, Any], folder: Path, source: str, cluster: dict[str, Any]) -> ExecPlugin:
        """Check an ``exec`` entry.

        :param folder: where a relative command path starts from
        :param source: the kubeconfig file, for messages
        :param cluster: the flattened cluster entry
        """
        command = str(body.get("command") or "")
        if not command:
            raise BadRequest(f"an `exec` entry in {source} has no `command`; mend it")
        version = str(body.get("apiVersion") or "")
        if version not in _VERSIONS:
            raise BadRequest(
                f"the `exec` entry for {command} in {source} speaks {version or 'no apiVersion'}, "
                f"not one of {', '.join(_VERSIONS)}; update the plugin's entry"
            )
        mode = str(body.get("interactiveMode") or "IfAvailable")
        if mode not in ("Never", "IfAvailable", "Always"):
            raise BadRequest(f"the `exec` entry for {command} in {source} has an unknown interactiveMode {mode!r}")
        if os.sep in command and not os.path.isabs(command):
            command = str(folder / command)
        told = None
        if body.get("provideClusterInfo"):
            keys = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
            told = {key: cluster[key] for key in keys if cluster.get(key)}
            for extension in cluster.get("extensions") or []:
                if extension.get("name") == _EXTENSION:
                    told["config"] = extension.get("extension")
        return cls(
            command=command,
            arguments=[str(argument) for argument in body.get("args") or []],
            environment={str(item["name"]): str(item.get("value", "")) for item in body.get("env") or []},
            version=version,
            mode=mode,
            hint=" ".join(str(body.get("installHint") or "").split()),
            cluster=told,
        )

    def run(self, interactive: bool) -> Credentials:
        """Run the plugin and return what it gave.

        :param interactive: whether a person is at the terminal who may be asked
        :raises NotFound: the command is not there
        :raises Forbidden: it failed, or it must ask a person and cannot
        """
        interactive = interactive and self.mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
        if self.mode == "Always" and not interactive:
            raise Forbidden(f"the credential plugin {self.command} wants a terminal; run `telepresence connect` in one")
        spec: dict[str, object] = {"interactive": interactive}
        if self.cluster is not None:
            spec["cluster"] = self.cluster
        info = {"apiVersion": self.version, "kind": "ExecCredential", "spec": spec}
        environment = {**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            done = subprocess.run(
                [self.command, *self.arguments],
                env=environment,
                stdin=None if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=None if interactive else subprocess.PIPE,
                timeout=TIMEOUT,
                check=False,
            )
        except FileNotFoundError:
            hint = self.hint or "install it, or put it in PATH"
            raise NotFound(f"the credential plugin {self.command} of the kubeconfig is not there; {hint}") from None
        except OSError as error:
            raise Forbidden(f"the credential plugin {self.command} cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the credential plugin {self.command} did not end within {TIMEOUT:.0f} s") from None
        if done.returncode:
            said = (done.stderr or b"").decode(errors="replace").strip().splitlines()
            text = f": {said[-1].strip()}" if said else ""
            raise Forbidden(f"the credential plugin {self.command} failed with exit code {done.returncode}{text}")
        return self._answer(done.stdout)

    def _answer(self, output: bytes) -> Credentials:
        """Read the plugin's ExecCredential."""
        try:
            answer = json.loads(output)
            status = answer["status"]
            version = answer["apiVersion"]
        except (ValueError, KeyError, TypeError):
            raise Forbidden(
                f"the credential plugin {self.command} did not print an ExecCredential; run it by hand"
            ) from None
        if version != self.version:
            raise Forbidden(f"the credential plugin {self.command} answered in {version}, not in {self.version}")
        found = Credentials(
            token=status.get("token"),
            certificate=status.get("clientCertificateData"),
            key=status.get("clientKeyData"),
            expires=status.get("expirationTimestamp"),
        )
        if not found.as_user():
            raise Forbidden(f"the credential plugin {self.command} gave neither a token nor a certificate with its key")
        return found
