"""End one engagement from another shell."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from orchestrator import cleanup, topod
from orchestrator.control import Control
from orchestrator.engaging import disengage
from orchestrator.engine import Engine
from orchestrator.handling import gone
from orchestrator.model import Engagement
from orchestrator.progress import Reporter
from telewire import names
from telewire.errors import BadRequest, NotFound, TeleError


def leave(
    engine: Engine, control: Control, connection: str, wanted: str, reporter: Reporter, container: str | None = None
) -> None:
    """End an engagement by its name or its workload's: stop its handler, put the original back.

    :param container: the remote container of the engagement, if the name alone does not tell
    :raises NotFound: there is none; the message names those that are
    :raises BadRequest: several could be meant
    """
    engagement = choose(control.engagements(), wanted, container)
    with reporter.step(f"Left {engagement['name']}"):
        listed = engine.containers(connection, names.ROLE_HANDLER, engagement=engagement["id"])
        handlers = [handler["Id"] for handler in listed]
        if handlers:
            _release(control, engagement["id"])
        for handler in handlers:
            engine.stop(handler)
        disengage(control, engagement["id"])
        for handler in handlers:
            gone(engine, handler)
        topod.remove(engine, connection, engagement)
        failed = cleanup.remove_volumes(engine, connection, engagement=engagement["id"])
    if failed:
        raise TeleError(f"{engagement['name']} is left, but not all is removed: {'; '.join(failed)}")


def _release(control: Control, engagement: str) -> None:
    """Have the application answer before the handler is stopped; that the engagement has ended meanwhile is no error."""
    with contextlib.suppress(NotFound):
        control.release(engagement)


def choose(found: Sequence[Engagement], wanted: str, container: str | None = None) -> Engagement:
    """Return the one engagement that is meant: by its ID or name, else by its workload's name.

    :raises NotFound: there is none
    :raises BadRequest: several could be meant
    """
    fitting = [one for one in found if container in (None, one["container"])]
    matching = (
        [one for one in fitting if one["id"] == wanted]
        or [one for one in fitting if one["name"] == wanted]
        or [one for one in fitting if one["workload"] == wanted]
    )
    if not matching:
        of = f" of container {container}" if container else ""
        there = ", ".join(map(_told, found)) or "none"
        raise NotFound(f"no engagement is named {wanted!r}{of}; there are: {there}")
    if len(matching) > 1:
        listed = ", ".join(map(_told, matching))
        raise BadRequest(
            f"{wanted!r} could mean several engagements; choose by name or ID, or with --container: {listed}"
        )
    return matching[0]


def _told(engagement: Engagement) -> str:
    return f"{engagement['name']} ({engagement['kind']}, container {engagement['container']}, ID {engagement['id']})"
