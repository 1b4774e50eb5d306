"""Remove what the set-up keeps: development clusters, the two plugins, the images that were built here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from telewire import names

LABELS = ("telepresence.io/image", "telepresence.io/stage", "telepresence.io/devcluster")
"""What all images that are built here have one of."""
BASES = ("debian:latest", "debian:trixie-slim")
"""Made here where no registry answers; one that was pulled stays."""


def lines(*command: str) -> list[str]:
    """Return the lines that ``command`` prints; none if it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def main() -> int:
    """Remove everything; return 1 if something stays."""
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        print("clean: Docker Engine does not answer; only local files are removed", file=sys.stderr)
        return 0
    failed = subprocess.run(
        [sys.executable, "-m", "orchestrator", "quit", "--stop-daemons"], stdout=subprocess.DEVNULL
    ).returncode
    for label in lines(
        "docker",
        "ps",
        "-a",
        "--filter",
        "label=telepresence.io/devcluster",
        "--format",
        '{{.Label "telepresence.io/devcluster"}}',
    ):
        failed |= subprocess.run(
            [sys.executable, "-m", "devcluster", "down", "--name", label], stdout=subprocess.DEVNULL
        ).returncode
    failed |= subprocess.run([sys.executable, str(Path(__file__).parent / "engines.py"), "clean"]).returncode
    for plugin in (names.TELEROUTE_PLUGIN, names.TELEMOUNT_PLUGIN):
        if plugin in lines("docker", "plugin", "ls", "--format", "{{.Name}}"):
            failed |= subprocess.run(["docker", "plugin", "rm", "-f", plugin], stdout=subprocess.DEVNULL).returncode
    for label in LABELS:
        form = "{{.Repository}}:{{.Tag}}@{{.ID}}"
        for image in lines("docker", "images", "--filter", f"label={label}", "--format", form):
            reference, _, identity = image.partition("@")
            wanted = identity if "<none>" in reference else reference
            failed |= subprocess.run(["docker", "rmi", wanted], stdout=subprocess.DEVNULL).returncode
    for base in BASES:
        if "Imported" in lines("docker", "image", "inspect", "-f", "{{.Comment}}", base):
            failed |= subprocess.run(["docker", "rmi", base], stdout=subprocess.DEVNULL).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
