"""IP fragments put together again (RFC 791, RFC 8200): large datagrams come through the VIF in pieces. Sans-io."""

from __future__ import annotations

import dataclasses

from teledaemon.packets import Packet

TIMEOUT = 15.0
"""Seconds that a datagram may take to be complete; Linux waits 30."""
MOST = 64
"""Datagrams that may be incomplete at the same time."""
LARGEST = {4: 65515, 6: 65535}
"""Bytes of payload that the length field of a packet (RFC 791, RFC 8200) can tell, by IP version."""
_Key = tuple[bytes, bytes, int, int]


class _Parts:
    def __init__(self, now: float) -> None:
        self.begun = now
        self.parts: dict[int, bytes] = {}
        self.size: int | None = None
        self.end = self.kept = 0
        self.first = b""

    def put(self, packet: Packet) -> None:
        offset = packet.fragment_offset
        self.kept += len(packet.payload) - len(self.parts.get(offset, b""))
        self.parts[offset] = packet.payload
        self.end = max(self.end, offset + len(packet.payload))
        if offset == 0:
            self.first = packet.raw
        if not packet.more_fragments:
            self.size = offset + len(packet.payload)

    def whole(self) -> bytes | None:
        if self.size != self.kept:
            return None
        data = b""
        for offset in sorted(self.parts):
            if offset != len(data):
                return None
            data += self.parts[offset]
        return data


class Reassembly:
    """Keeps pieces until a packet is whole; what overlaps, comes too late or is too much is dropped."""

    def __init__(self) -> None:
        self._packets: dict[_Key, _Parts] = {}

    def add(self, packet: Packet, now: float) -> Packet | None:
        """Take a fragment that came at ``now`` (seconds); return the packet if it is whole now."""
        key = (packet.source, packet.target, packet.protocol, packet.fragment_id)
        parts = self._packets.get(key)
        if parts is None or now - parts.begun > TIMEOUT:
            self._forget_old(now)
            parts = self._packets[key] = _Parts(now)
        parts.put(packet)
        if max(parts.end, parts.kept) > LARGEST[packet.version]:
            del self._packets[key]
            return None
        data = parts.whole()
        if data is None:
            return None
        del self._packets[key]
        # An error is told about the first piece: only that one bears the ports by which the sender finds its socket.
        return dataclasses.replace(packet, payload=data, raw=parts.first, fragment_offset=0, more_fragments=False)

    def _forget_old(self, now: float) -> None:
        for key, parts in list(self._packets.items()):
            if now - parts.begun > TIMEOUT or len(self._packets) >= MOST:
                del self._packets[key]
