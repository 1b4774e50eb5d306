"""Kubeconfig files are read and merged as kubectl does, and one context of them is flattened."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import kubeconfig
from orchestrator.execplugin import Credentials
from telewire.errors import BadRequest, Forbidden, NotFound


def config(**parts: Any) -> dict[str, Any]:
    """A kubeconfig of one context, with parts replaced."""
    made = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://kube.example:6443"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    made.update(parts)
    return made


def write(path: Path, document: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


def user(**body: Any) -> list[dict[str, Any]]:
    return [{"name": "u", "user": body}]


def test_one_context_is_flattened_with_its_files_embedded(tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    write(
        folder / "config",
        config(
            clusters=[{"name": "c", "cluster": {"server": "https://k:1", "certificate-authority": "pki/ca.crt"}}],
            users=user(**{"client-certificate": "c.crt", "client-key": str(folder / "c.key")}),
        ),
    )
    (folder / "pki").mkdir()
    (folder / "pki" / "ca.crt").write_bytes(b"CA")
    (folder / "c.crt").write_bytes(b"CERT")
    (folder / "c.key").write_bytes(b"KEY")
    found = kubeconfig.load(str(folder / "config"))
    document = json.loads(json.dumps(found.document(None)))
    assert base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"]) == b"CA"
    assert base64.b64decode(document["users"][0]["user"]["client-certificate-data"]) == b"CERT"
    assert base64.b64decode(document["users"][0]["user"]["client-key-data"]) == b"KEY"
    assert "certificate-authority" not in document["clusters"][0]["cluster"]
    assert document["current-context"] == document["contexts"][0]["name"] == "one"
    assert document["contexts"][0]["context"]["namespace"] == "ns"


def test_data_wins_over_files(tmp_path: Path) -> None:
    data = base64.b64encode(b"DATA").decode()
    body = {"server": "https://k", "certificate-authority": "missing.crt", "certificate-authority-data": data}
    path = write(tmp_path / "config", config(clusters=[{"name": "c", "cluster": body}]))
    assert kubeconfig.load(str(path)).cluster["certificate-authority-data"] == data


def test_several_files_first_one_wins_entry_by_entry(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "config", {"users": user(token="first"), "contexts": config()["contexts"]})
    second = write(
        tmp_path / "b" / "config",
        config(users=user(token="second", username="never"), **{"current-context": "one"}),
    )
    variable = os.pathsep.join(["", str(first), str(tmp_path / "missing"), str(second), str(first)])
    found = kubeconfig.load(environment={"KUBECONFIG": variable})
    assert found.user == {"token": "first"}
    assert found.server == "https://kube.example:6443"
    assert found.paths == f"{first}{os.pathsep}{second}"


def test_relative_paths_start_from_the_file_that_has_them(tmp_path: Path) -> None:
    write(tmp_path / "a" / "config", {"current-context": "one"})
    write(tmp_path / "b" / "config", config(users=user(**{"client-certificate": "x.crt", "client-key": "x.key"})))
    (tmp_path / "b" / "x.crt").write_bytes(b"B")
    (tmp_path / "b" / "x.key").write_bytes(b"B")
    found = kubeconfig.load(environment={"KUBECONFIG": f"{tmp_path}/a/config{os.pathsep}{tmp_path}/b/config"})
    assert base64.b64decode(found.user["client-key-data"]) == b"B"


def test_explicit_file_is_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "one", config())
    with pytest.raises(NotFound, match="check --kubeconfig"):
        kubeconfig.load(str(tmp_path / "none"), environment={"KUBECONFIG": str(path)})
    assert kubeconfig.load(str(path), environment={"KUBECONFIG": "/nowhere"}).name == "one"


def test_default_is_under_home(tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", config())
    assert kubeconfig.load(environment={"HOME": str(tmp_path)}).namespace == "ns"
    assert kubeconfig.load(environment={"HOME": str(tmp_path)}, namespace="mine").namespace == "mine"


def test_a_token_file_wins_and_is_read_each_time(tmp_path: Path) -> None:
    path = write(tmp_path / "config", config(users=user(tokenFile="token", token="old")))
    (tmp_path / "token").write_text("new\n")
    found = kubeconfig.load(str(path))
    assert found.user == {}
    assert found.credentials(False) == Credentials(token="new")
    (tmp_path / "token").write_text("newer\n")
    again = found.credentials(False)
    assert again is not None
    assert found.document(again)["users"] == [{"name": "user", "user": {"token": "newer"}}]


@pytest.mark.parametrize(
    ("document", "context", "said"),
    [
        (config(), "two", "no context 'two'.*there are: one"),
        (config(**{"current-context": ""}), None, "no current context.*one"),
        (config(clusters=[]), None, "names the cluster 'c'"),
        (config(users=[]), None, "names the user 'u'"),
        (config(clusters=[{"name": "c", "cluster": {}}]), None, "no `server`"),
        (config(users=user(**{"auth-provider": {"name": "gcp"}})), None, "legacy auth-provider 'gcp'"),
        (config(users=user(**{"client-key": "/nowhere/key"})), None, "`client-key`.*/nowhere/key"),
        (
            config(users=user(exec={"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"})),
            None,
            "v1alpha1",
        ),
        (config(users=[{"user": {}}]), None, "has no name"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, document: dict[str, Any], context: str | None, said: str) -> None:
    path = write(tmp_path / "config", document)
    with pytest.raises((BadRequest, NotFound), match=said) as error:
        kubeconfig.load(str(path), context)
    assert "\n" not in str(error.value)


def test_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a: [\n  b")
    with pytest.raises(BadRequest, match="not YAML"):
        kubeconfig.load(str(tmp_path / "config"))


def plugin(tmp_path: Path, script: str, **body: Any) -> kubeconfig.KubeContext:
    """A context whose exec plugin is a shell script beside the kubeconfig."""
    program = tmp_path / "bin" / "plugin"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    entry = {
        "command": "./bin/plugin",
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "IfAvailable",
        **body,
    }
    return kubeconfig.load(str(write(tmp_path / "config", config(users=user(exec=entry)))))


ANSWER = """{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": %s}"""


def test_exec_plugin_runs_here_with_its_arguments_environment_and_cluster(tmp_path: Path) -> None:
    found = plugin(
        tmp_path,
        f"""printf '%s|%s|%s' "$1" "$EXTRA" "$KUBERNETES_EXEC_INFO" > {tmp_path}/seen
            echo '{ANSWER % '{"token": "t", "expirationTimestamp": "2040-01-01T00:00:00Z"}'}'""",
        args=["hello"],
        env=[{"name": "EXTRA", "value": "more"}],
        provideClusterInfo=True,
    )
    given = found.credentials(interactive=True)
    assert given is not None
    assert given.token == "t"
    assert given.expiry() == 2208988800.0
    assert given.as_update() == {"token": "t", "expires": "2040-01-01T00:00:00Z"}
    argument, extra, info = (tmp_path / "seen").read_text().split("|")
    assert (argument, extra) == ("hello", "more")
    told = json.loads(info)
    assert told["kind"] == "ExecCredential"
    assert told["spec"]["cluster"]["server"] == "https://kube.example:6443"
    assert told["spec"]["interactive"] is False
    assert "exec" not in json.dumps(found.document(given))


def test_exec_plugin_with_a_certificate(tmp_path: Path) -> None:
    found = plugin(tmp_path, f"""echo '{ANSWER % '{"clientCertificateData": "C", "clientKeyData": "K"}'}'""")
    given = found.credentials(False)
    assert given is not None
    assert base64.b64decode(given.as_update()["client_certificate_data"]) == b"C"
    assert base64.b64decode(given.as_user()["client-key-data"]) == b"K"


@pytest.mark.parametrize(
    ("script", "body", "said"),
    [
        ("echo please log in >&2; exit 3", {}, "exit code 3: please log in"),
        ("echo nonsense", {}, "did not print an ExecCredential"),
        (f"echo '{ANSWER % '{}'}'", {}, "neither a token nor a certificate"),
        (f"echo '{ANSWER % '{}'}'".replace("io/v1", "io/v1beta1"), {}, "answered in .*v1beta1"),
        ("", {"interactiveMode": "Always"}, "wants a terminal"),
    ],
)
def test_exec_plugins_that_fail(tmp_path: Path, script: str, body: dict[str, Any], said: str) -> None:
    with pytest.raises(Forbidden, match=said):
        plugin(tmp_path, script, **body).credentials(interactive=False)


def test_exec_plugin_that_is_not_there_gives_its_hint(tmp_path: Path) -> None:
    found = plugin(tmp_path, "", command="no-such-plugin-anywhere", installHint="get it\n  from example")
    with pytest.raises(NotFound, match=r"no-such-plugin-anywhere.*get it from example"):
        found.credentials(False)
