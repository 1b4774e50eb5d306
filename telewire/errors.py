"""The one base of every error that Telepresence raises on purpose."""


class TeleError(Exception):
    """Base of all deliberate errors; ``str()`` of it is one line fit for a user: what failed, why, what to do."""

    code = "internal"
    """Machine-readable kind, carried by the control API."""


class BadRequest(TeleError):
    """The caller asked for something malformed, contradictory or not chosen clearly."""

    code = "bad-request"


class NotFound(TeleError):
    """A named thing is not there."""

    code = "not-found"


class Conflict(TeleError):
    """Somebody or something else holds what was asked for."""

    code = "conflict"


class Forbidden(TeleError):
    """The cluster, the engine or the daemon refused permission."""

    code = "forbidden"


class Unavailable(TeleError):
    """A peer (cluster, engine, daemon, agent) cannot be reached or did not answer in time."""

    code = "unavailable"
