"""The plugins by Docker's API alone, as ``curl`` speaks it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from telewire import names
from tests.engines.inner import DRIVER, GATEWAY, PROBE, SUBNET, Inner

VERSION = "v1.41"
"""What all the engines speak."""


def curl(engine: Inner, method: str, path: str, body: object = None, code: int = 200) -> Any:
    """Make one request; return the answer as JSON, or as text if it is none."""
    given = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body is not None else []
    command = ["curl", "-sS", "--unix-socket", str(engine.socket), "-X", method, "-w", "\n%{http_code}", *given]
    done = subprocess.run(
        [*command, f"http://localhost/{VERSION}{path}"], capture_output=True, text=True, check=True, timeout=120
    )
    text, _, status = done.stdout.rpartition("\n")
    assert int(status) == code, f"{method} {path}: {status} {text}"
    try:
        return json.loads(text)
    except ValueError:
        return text


def test_network_volume_and_container(engine: Inner, server: str, root: Path) -> None:
    (root / "f").write_text("content")
    daemon = engine.start_daemon()
    address = engine.address_of(daemon, "bridge")
    curl(engine, "POST", "/networks/create", {
        "Name": "plain", "Driver": DRIVER, "IPAM": {"Config": [{"Subnet": SUBNET, "Gateway": GATEWAY}]},
        "Options": {"daemon": f"{address}:{names.CONTROL_PORT}", "token": engine.token(daemon)},
    }, code=201)  # fmt: skip
    options = {"address": server}
    curl(engine, "POST", "/volumes/create", {"Name": "plain", "Driver": "telemount", "DriverOpts": options}, code=201)
    mount = {"Type": "volume", "Source": "plain", "Target": "/mnt", "VolumeOptions": {"NoCopy": True}}
    script = f"{PROBE}\nprint(open('/mnt/f').read())\nopen('/mnt/g', 'w').write('written')\n"
    made = curl(engine, "POST", "/containers/create?name=plain", {
        "Image": names.image("agent"), "Entrypoint": ["python3", "-c", script, "tcp", GATEWAY, "53"], "Tty": True,
        "HostConfig": {"NetworkMode": "plain", "Mounts": [mount]},
    }, code=201)  # fmt: skip
    curl(engine, "POST", f"/containers/{made['Id']}/start", code=204)
    assert curl(engine, "POST", f"/containers/{made['Id']}/wait")["StatusCode"] == 0
    assert curl(engine, "GET", f"/containers/{made['Id']}/logs?stdout=1").split() == ["open", "content"]
    assert (root / "g").read_text() == "written"
    curl(engine, "DELETE", f"/containers/{made['Id']}", code=204)
    curl(engine, "DELETE", "/networks/plain", code=204)
    curl(engine, "DELETE", "/volumes/plain", code=204)
    refused = curl(engine, "POST", "/volumes/create", {"Name": "x", "Driver": "telemount", "DriverOpts": {}}, code=500)
    assert "address" in refused["message"]
    engine.docker("rm", "-f", daemon)
