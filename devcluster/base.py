"""The base image of all Dockerfiles: pulled where a registry answers, else made from Debian's packages under the same name."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from devcluster.engine import DevclusterError, has_image

IMAGE = "debian:trixie-slim"
SUITE = "trixie"
PULL_TIMEOUT = 30.0
_NO_DOCS = ("doc", "man", "info", "locale", "lintian", "linda")
_CERTIFICATES = Path("/usr/local/share/ca-certificates")
"""Where an administrator puts authorities that this machine trusts besides the usual ones."""


def ensure(api: Any) -> None:
    """Have the base image. DevclusterError if it can neither be pulled nor made."""
    if has_image(api, IMAGE):
        return
    try:
        pulled = subprocess.run(["docker", "pull", "-q", IMAGE], capture_output=True, timeout=PULL_TIMEOUT)
        if not pulled.returncode:
            return
    except subprocess.TimeoutExpired:
        pass
    if not shutil.which("mmdebstrap"):
        raise DevclusterError(
            f"the image {IMAGE} cannot be pulled, and mmdebstrap is not there to make it; install mmdebstrap"
        )
    _make()


def mirror() -> str:
    """Return the Debian mirror that this machine's own packages come from; Debian's own if it is no Debian."""
    for folder in (Path("/etc/apt/sources.list.d"), Path("/etc/apt")):
        for file in sorted(folder.glob("*.sources")) + sorted(folder.glob("*.list")):
            for line in file.read_text(errors="replace").splitlines():
                words = line.split()
                found = [word for word in words if word.startswith("http") and word.rstrip("/").endswith("/debian")]
                if found and (line.startswith("URIs:") or words[0] == "deb"):
                    return found[0]
    return "http://deb.debian.org/debian"


def _make() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tarball = os.path.join(folder, "base.tar")
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--include=ca-certificates",
            "--aptopt=Acquire::Languages none",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NO_DOCS),
            *_certificate_hooks(),
            '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*',
            SUITE,
            tarball,
            f"deb {mirror()} {SUITE} main",
        ]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise DevclusterError(f"mmdebstrap cannot make {IMAGE}: {_last(made.stderr)}")
        imported = subprocess.run(["docker", "import", tarball, IMAGE], capture_output=True, text=True)
        if imported.returncode:
            raise DevclusterError(f"the image {IMAGE} cannot be imported: {_last(imported.stderr)}")


def _certificate_hooks() -> list[str]:
    """Return the options by which the image trusts the authorities that this machine's administrator has added."""
    found = sorted(_CERTIFICATES.glob("*.crt"))
    if not found:
        return []
    copies = [f"--customize-hook=copy-in {path} /usr/local/share/ca-certificates" for path in found]
    return [*copies, '--customize-hook=chroot "$1" update-ca-certificates']


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
