"""Typed shapes of what the daemon's control API says; ``docs/architecture.md`` is their source."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Gateway(TypedDict):
    """The pod through which the connection reaches the cluster."""

    pod: str
    node: str


class Subnets(TypedDict):
    """The cluster's subnets, in CIDR notation."""

    service: list[str]
    pod: list[str]


class Dns(TypedDict):
    """How the cluster resolves names."""

    search: list[str]
    nameservers: list[str]


class Tunnel(TypedDict):
    """One session between the daemon and an agent."""

    pod: str
    state: str
    since: str
    error: NotRequired[str | None]
    attempts: NotRequired[int]


class Port(TypedDict):
    """One engaged port: ``local`` on the handler, ``remote`` of the container."""

    local: int
    remote: int
    protocol: str


class Mount(TypedDict):
    """One volume of the engaged container."""

    path: str
    read_only: bool
    dir: NotRequired[str]


class Export(TypedDict):
    """Where the engaged container's files are served: a port of the daemon, and the ID to ask for."""

    port: int
    id: str


class Handler(TypedDict):
    """Who runs here for the engaged container; traffic goes to ``target`` if that is given."""

    address: str
    container: str
    target: NotRequired[str | None]


class ToPod(TypedDict):
    """The daemon listens on ``address:forward`` for what goes to ``port`` of the pod's loopback address."""

    port: int
    protocol: str
    address: str
    forward: int


class Copies(TypedDict):
    """How many connections or datagrams of a ``wiretap`` came here, and how many could not."""

    sent: int
    lost: int


class Engagement(TypedDict):
    """One engagement; ``environment`` is only told for a single one, ``copies`` only for a ``wiretap``."""

    id: str
    name: str
    kind: str
    workload: str
    workload_kind: str
    namespace: str
    container: str
    service: NotRequired[str | None]
    state: str
    since: str
    pods: list[str]
    ports: list[Port]
    environment: NotRequired[dict[str, str]]
    mounts: list[Mount]
    not_mounted: NotRequired[list[str]]
    export: Export | None
    to_pod: NotRequired[list[ToPod]]
    copies: NotRequired[Copies | None]
    handler: Handler | None


class Status(TypedDict):
    """What the daemon says of itself."""

    version: str
    name: str
    state: str
    since: str
    error: str | None
    context: str
    server: str
    namespace: str
    client_id: str
    gateway: Gateway | None
    subnets: Subnets
    dns: Dns
    networks: list[object]
    tunnels: list[Tunnel]
    engagements: list[Engagement]


class Workload(TypedDict):
    """One workload of the connected namespace; ``reason`` says why it cannot be engaged."""

    name: str
    kind: str
    namespace: str
    replicas: int
    ready: int
    containers: list[str]
    engagements: list[str]
    reason: str | None
