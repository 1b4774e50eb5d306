"""Kubernetes and CoreDNS, built from their Go modules; kept as long as what they are built from does not change."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from devcluster.engine import DevclusterError

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "devcluster"
VERSION = "v1.34.4"
_FLAGS = {
    "kube": f"-s -w -X k8s.io/component-base/version.gitVersion={VERSION} -X k8s.io/component-base/version.gitMajor=1 "
    "-X k8s.io/component-base/version.gitMinor=34",
    "coredns": "-s -w",
}


def digest(*paths: Path) -> str:
    """Return a short hash of the files at and below ``paths``."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(str(file.name).encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def build(name: str) -> Path:
    """Return the program ``name`` (``kube``, ``coredns``), built if it is not there. DevclusterError if it cannot be."""
    source = HERE / name
    target = BUILD / "bin" / f"{name}-{digest(source)}"
    if target.exists():
        return target
    if not shutil.which("go"):
        raise DevclusterError("Go is needed to build the development cluster; install it from https://go.dev/dl")
    print(f"building {name} from its Go modules, minutes the first time", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".new")
    command = ["go", "build", "-trimpath", "-ldflags", _FLAGS[name], "-o", str(beside), "."]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DevclusterError(f"building {name} failed: {lines[-1] if lines else 'no output'}")
    beside.rename(target)
    return target
