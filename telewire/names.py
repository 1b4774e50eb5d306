"""Names, labels and ports that several parts must spell alike; ``docs/architecture.md`` lists them."""

import hashlib
import os
import re

from telewire import __version__

LABEL_CONNECTION = "telepresence.io/connection"
LABEL_ROLE = "telepresence.io/role"
LABEL_ENGAGEMENT = "telepresence.io/engagement"
LABEL_CONTEXT = "telepresence.io/context"
LABEL_NAMESPACE = "telepresence.io/namespace"
LABEL_KUBECONFIG = "telepresence.io/kubeconfig"

ROLE_DAEMON = "daemon"
ROLE_NETWORK = "network"
ROLE_VOLUME = "volume"
ROLE_HANDLER = "handler"
ROLE_TOOL = "tool"

KUBE_MANAGED_BY = ("app.kubernetes.io/managed-by", "telepresence")
KUBE_LABEL_CLIENT = "telepresence.io/client"
KUBE_ANNOTATION_REPLACED = "telepresence.io/replaced"

TELEROUTE_PLUGIN = "teleroute:latest"
TELEMOUNT_PLUGIN = "telemount:latest"

CONTROL_PORT = 4038
EXPORT_PORT = 4040
AGENT_PORT = 4050
VIF_PORT = 15001


def safe_name(text: str) -> str:
    """Return ``text`` with every character that Docker forbids in a name replaced by ``_``."""
    name = re.sub(r"[^a-zA-Z0-9_.-]", "_", text)
    return name if name[:1].isalnum() else "a" + name[1:]


def client_id(engine_id: str, connection: str) -> str:
    """Return the 16 hex digits by which this connection's traces in a cluster are found again after a crash."""
    return hashlib.sha256(f"{engine_id}/{connection}".encode()).hexdigest()[:16]


def image(part: str) -> str:
    """Return the image reference of ``part`` (``daemon`` or ``agent``), as the environment overrides it."""
    override = os.environ.get(f"TELEPRESENCE_{part.upper()}_IMAGE")
    if override:
        return override
    registry = os.environ.get("TELEPRESENCE_REGISTRY", "").rstrip("/")
    return f"{registry + '/' if registry else ''}telepresence/{part}:{__version__}"
