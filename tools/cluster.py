"""Bring up the development cluster with sample application and agent image, unless KUBECONFIG names a cluster."""

from __future__ import annotations

import os
import subprocess
import sys

from telewire import names


def main() -> int:
    """Return the exit code of the first step that fails, else 0."""
    if os.environ.get("KUBECONFIG") and not os.environ.get("CI"):
        print(f"cluster: using the one of KUBECONFIG={os.environ['KUBECONFIG']}", file=sys.stderr)
        return 0
    devcluster = [sys.executable, "-m", "devcluster"]
    for step in (["up"], ["load", names.image("agent")], ["sample"]):
        code = subprocess.run([*devcluster, *step], stdout=subprocess.DEVNULL).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
