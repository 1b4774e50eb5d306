"""Which of the pod's ports are redirected, in which slot, and for whom: ``listen`` with mode ``intercept`` or ``wiretap``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from teleagent import application
from teleagent.application import SLOTS
from teleagent.flows import RedirectedDatagrams
from teleagent.inbound import Wanted
from teleagent.intercepting import Claim, Redirected
from teleagent.nft import Nft, NftError
from teleagent.redirect import Redirect, explained, remove_dead_tables
from teleagent.tapping import Budget, Tally
from telewire.errors import TeleError, Unavailable
from telewire.session import Session
from telewire.stream import Stream

log = logging.getLogger(__name__)

LAST_ARRIVALS = 0.2
"""Seconds for connections that were redirected before the end to be made and accepted."""
MODES = ("intercept", "wiretap")
Key = tuple[int, str]


def slot_of(message: dict[str, Any]) -> int:
    """Return the slot of a ``listen`` message. ValueError if it is none."""
    slot = int(message.get("slot", 0))
    if not 0 <= slot < SLOTS:
        raise ValueError(f"{slot} is no slot")
    return slot


class Slot:
    """The claims in one slot and their redirection."""

    def __init__(self, slot: int, nft: Nft, budget: Budget) -> None:
        self.slot = slot
        self.budget = budget
        self.claims: dict[Key, Claim] = {}
        self.redirect = Redirect(nft, slot, lambda: Redirected(self))
        self._datagrams: dict[int, RedirectedDatagrams] = {}

    @property
    def own_port(self) -> int:
        """The port that others are redirected to."""
        return self.redirect.own_port

    def claim(self, port: int, protocol: str) -> Claim | None:
        """Return whose ``port`` is; None if nobody's."""
        return self.claims.get((port, protocol))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` until its end or the agent's."""
        application.track(asyncio.get_running_loop().create_task(work))

    def add(self, claim: Claim) -> None:
        """Have ``claim`` redirected at the next :meth:`apply`. OSError, NotPermitted."""
        if claim.protocol == "udp":
            datagrams = RedirectedDatagrams(claim, self.budget)
            self._datagrams[claim.port] = datagrams
            self.redirect.set_udp(claim.port, datagrams.sockets)
        self.claims[claim.port, claim.protocol] = claim

    def remove(self, claim: Claim) -> list[RedirectedDatagrams]:
        """Forget ``claim``; return what is to be closed after the next :meth:`apply`."""
        del self.claims[claim.port, claim.protocol]
        if claim.protocol == "tcp":
            return []
        self.redirect.set_udp(claim.port, ())
        return [self._datagrams.pop(claim.port)]

    def apply(self) -> None:
        """Redirect the ports whose daemons can be reached. Unavailable if that is not possible."""
        self.redirect.redirect(key for key, claim in self.claims.items() if claim.linked())

    def renew(self, session: Session) -> None:
        """``session`` has a link again."""
        for port, datagrams in self._datagrams.items():
            if self.claims[port, "udp"].session is session:
                datagrams.renew()

    def close(self) -> None:
        """Redirect nothing any more."""
        self.redirect.close()
        for datagrams in self._datagrams.values():
            datagrams.close()


class Claims:
    """All ports that are redirected at the moment, and the sessions that they depend on."""

    def __init__(self) -> None:
        self._nft = Nft()
        self._budget = Budget()
        self._slots: dict[int, Slot] = {}
        self._watched: set[Session] = set()
        self._tallies: dict[Stream, Tally] = {}
        self._swept = False

    async def take(
        self, session: Session, owner: Stream, ports: list[dict[str, Any]], *, mode: str, slot: int
    ) -> list[dict[str, Any]]:
        """Redirect ``ports`` for ``owner``'s session; return those that could not be had: ``[{"port","protocol","text"}]``.

        A port that another session has in this slot is taken over if that session has no link.
        """
        wanted = [Wanted.of(port) for port in ports]
        try:
            place = await self._slot(slot)
        except (TeleError, OSError) as error:
            return [_failure(each, error) for each in wanted]
        tally = Tally(owner) if mode == "wiretap" else None
        failed, taken = [], []
        for each in wanted:
            try:
                taken.append(self._claim(place, each, session))
            except (TeleError, OSError) as error:
                failed.append(_failure(each, error))
                continue
            claim = taken[-1]
            claim.session, claim.owner, claim.tally, claim.probed = session, owner, tally, each.probed
        try:
            place.apply()
        except TeleError as error:
            failed += [_failure(claim, error) for claim in taken]
            self.give_back(owner)
        else:
            if tally is not None:
                self._tallies[owner] = tally
        self._watch()
        return failed

    async def _slot(self, number: int) -> Slot:
        if not self._swept:
            try:
                remove_dead_tables(self._nft)
            except NftError as error:
                raise explained(error) from None
            self._swept = True
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = Slot(number, self._nft, self._budget)
        await slot.redirect.open()
        return slot

    def _claim(self, place: Slot, wanted: Wanted, session: Session) -> Claim:
        claim = place.claim(wanted.port, wanted.protocol)
        if claim is None:
            claim = Claim(place.slot, wanted.port, wanted.protocol)
            place.add(claim)
        elif claim.session is not session and claim.linked():
            raise Unavailable("another connected session has the port")
        return claim

    def give_back(self, owner: Stream) -> None:
        """``owner`` has ended: its ports are the application's again. Connections that came before go on."""
        for place in self._slots.values():
            given = [claim for claim in place.claims.values() if claim.owner is owner]
            closing = [datagrams for claim in given for datagrams in place.remove(claim)]
            if given:
                self._apply(place)
            for datagrams in closing:
                datagrams.close()
        if (tally := self._tallies.pop(owner, None)) is not None:
            tally.finish()
        self._watch()

    async def close(self) -> None:
        """Redirect nothing any more; what is accepted until then goes to the application."""
        if not self._slots:
            return
        for place in self._slots.values():
            place.redirect.delete()
            for claim in place.claims.values():
                claim.withdraw()
            place.claims.clear()
        for tally in self._tallies.values():
            tally.finish()
        self._tallies.clear()
        self._watch()
        await asyncio.sleep(LAST_ARRIVALS)
        for place in self._slots.values():
            place.close()

    def _apply(self, place: Slot) -> None:
        try:
            place.apply()
        except TeleError as error:
            log.error("redirection in slot %d: %s", place.slot, error)
            with contextlib.suppress(TeleError):
                place.redirect.delete()

    def _watch(self) -> None:
        """Watch the sessions closely that have claims, and only those."""
        now = {claim.session for place in self._slots.values() for claim in place.claims.values() if claim.session}
        for session in now - self._watched:
            session.watch_closely()
            session.on_link_lost = lambda _error, session=session: self._link_lost(session)
            session.on_attached = lambda session=session: self._link_back(session)
        for session in self._watched - now:
            session.on_link_lost = session.on_attached = None
            session.watch_normally()
        self._watched = now

    def _link_lost(self, session: Session) -> None:
        for place in self._slots.values():
            mine = [claim for claim in place.claims.values() if claim.session is session]
            if mine:
                self._apply(place)
            for claim in mine:
                claim.withdraw()

    def _link_back(self, session: Session) -> None:
        for place in self._slots.values():
            if any(claim.session is session for claim in place.claims.values()):
                place.renew(session)
                self._apply(place)


def _failure(port: Wanted | Claim, error: Exception) -> dict[str, Any]:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return {"port": port.port, "protocol": port.protocol, "text": text}
