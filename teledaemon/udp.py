"""UDP through the VIF: one stream to the agent for each flow, kept while something moves."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from teledaemon import packets
from teledaemon.packets import Flow, Packet
from telewire.errors import TeleError
from telewire.messages import DatagramReader, Refused, pack_datagram, request
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

IDLE = 60.0
IDLE_DNS = 10.0
"""Seconds without a datagram after which a flow is forgotten; a name is asked for once from each port."""
MOST_FLOWS = 4096
MOST_PENDING = 64
"""Datagrams kept until the agent has answered."""
BEHIND = 1 << 20
"""Bytes that wait for the tunnel before datagrams are dropped."""


class _Flow:
    def __init__(self, flow: Flow, first: Packet) -> None:
        self.flow = flow
        self.last = first
        self.pending: list[bytes] = []
        self.stream: Stream | None = None
        self.task: asyncio.Task[None] | None = None
        self.active = 0.0


class UdpFlows:
    """All flows. ``send`` takes whole IP packets for the client's side."""

    def __init__(self, session: Callable[[], Session], send: Callable[[bytes], None]) -> None:
        self._session = session
        self._send = send
        self._flows: OrderedDict[Flow, _Flow] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def datagram(self, flow: Flow, packet: Packet) -> None:
        """Take a client's datagram. What cannot be kept is dropped, as UDP has it."""
        found = self._flows.get(flow)
        if found is None:
            if len(self._flows) >= MOST_FLOWS:
                _, idlest = self._flows.popitem(last=False)
                if idlest.task is not None:
                    idlest.task.cancel()
            found = self._flows[flow] = _Flow(flow, packet)
            found.task = self._loop.create_task(self._run(found))
        found.last = packet
        self._moved(found)
        data = packet.payload[8:]
        if found.stream is None:
            if len(found.pending) < MOST_PENDING:
                found.pending.append(data)
        elif found.stream.get_write_buffer_size() < BEHIND:
            found.stream.write(pack_datagram(data))

    def _moved(self, flow: _Flow) -> None:
        flow.active = self._loop.time()
        if flow.flow in self._flows:
            self._flows.move_to_end(flow.flow)

    async def _run(self, flow: _Flow) -> None:
        idle = IDLE_DNS if flow.flow.target_port == 53 else IDLE
        try:
            stream, _ = await request(
                self._session(), {"op": "udp", "host": flow.flow.host, "port": flow.flow.target_port}, 20
            )
            flow.stream = stream
            for data in flow.pending:
                stream.write(pack_datagram(data))
            flow.pending.clear()
            reader = DatagramReader()
            while (left := flow.active + idle - self._loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        data = await stream.read()
                except TimeoutError:
                    continue
                if not data:
                    break
                self._moved(flow)
                for datagram in reader.feed(data):
                    self._send(packets.datagram(flow.flow, datagram))
        except (TeleError, ConnectionError) as error:
            log.debug("udp %s:%d: %s", flow.flow.host, flow.flow.target_port, error)
            # A stream that only was reset: an ICMP error came back to the agent. A lost session is a TeleError too.
            refused = isinstance(error, Refused) or not isinstance(error, TeleError)
            why = packets.PORT_UNREACHABLE if refused else packets.HOST_UNREACHABLE
            self._send(packets.unreachable(flow.last, why))
        finally:
            if self._flows.get(flow.flow) is flow:
                del self._flows[flow.flow]
            if flow.stream is not None:
                flow.stream.close()

    def close(self) -> None:
        """End all flows."""
        for flow in list(self._flows.values()):
            if flow.task is not None:
                flow.task.cancel()
