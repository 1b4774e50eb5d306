"""The plugins come from a registry, and ask for what the documents say."""

from __future__ import annotations

import json
import re

from tests.engines.inner import Inner
from tests.engines.registry import NEXT, PLUGINS, VERSION, Registry

PRIVILEGES = {
    "teleroute": {"network: [host]", "host pid namespace: [true]", "capabilities: [CAP_NET_ADMIN]"},
    "telemount": {"network: [host]", "device: [/dev/fuse]", "capabilities: [CAP_SYS_ADMIN]"},
}
"""docs/privileges.md."""


def test_it_asks_for_what_is_documented_and_no_more(engine: Inner, registry: Registry) -> None:
    with registry.serving(engine.pid):
        for plugin, wanted in PRIVILEGES.items():
            asked = engine.run("plugin", "install", registry.reference(plugin, NEXT), given="n\n", check=False)
            assert set(re.findall(r"^ - (.*)$", asked.stdout, re.M)) == wanted, asked
    assert len(engine.docker("plugin", "ls", "-q").split()) == 2


def test_both_are_enabled_under_their_short_names(engine: Inner, registry: Registry) -> None:
    found = json.loads(engine.docker("plugin", "inspect", *(f"{plugin}:latest" for plugin in PLUGINS)))
    for plugin, description in zip(PLUGINS, found, strict=True):
        assert description["Name"] == f"{plugin}:latest"
        assert description["Enabled"]
        assert description["PluginReference"] == registry.reference(plugin, VERSION)
