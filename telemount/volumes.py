"""The volumes that Docker has created, and who has mounted them: on disk before an answer is given."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from telemount.options import Options
from telewire.errors import BadRequest, Conflict, NotFound

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")


class NoVolume(NotFound):
    """There is no volume of that name."""


class Store(Protocol):
    """Where the state is kept: ``telewire.state.StateFile``."""

    def load(self) -> dict[str, Any]:
        """Return what was saved last."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep ``state``; it is safe when this returns."""


def check_name(name: object) -> str:
    """Return a volume's name. BadRequest if it is none: it becomes a directory's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadRequest(f"{name!r} is no name for a volume; use letters, digits, '_', '.' and '-'")
    return name


@dataclass(slots=True)
class Volume:
    """One volume. ``users`` counts how often each of Docker's mount IDs has it mounted."""

    name: str
    options: Options
    created: str
    users: dict[str, int] = field(default_factory=dict)
    restored: set[str] = field(default_factory=set)
    """IDs from before this plugin's start, whose next Mount may be the same one told again."""

    def use(self, user: str) -> None:
        """Count one Mount.

        The same ID comes again for ``docker cp`` from a running container, followed by an Unmount of its own (moby #37314). After the
        engine's crash it comes again without; then the plugin was restarted as well.
        """
        if user in self.restored:
            self.restored.discard(user)
        else:
            self.users[user] = self.users.get(user, 0) + 1

    def leave(self, user: str) -> None:
        """Count one Unmount; one that nobody knows is none."""
        count = self.users.get(user, 0) - 1
        self.restored.discard(user)
        if count > 0:
            self.users[user] = count
        else:
            self.users.pop(user, None)

    def to_json(self) -> dict[str, Any]:
        """Return what is to be saved."""
        return {"options": self.options.to_json(), "created": self.created, "users": sorted(self.users)}


class Volumes:
    """All volumes by name. What changes is saved with :meth:`save` before Docker is answered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._volumes: dict[str, Volume] = {}

    def load(self) -> None:
        """Take what was saved: who had a volume mounted has it once."""
        for name, saved in self._store.load().get("volumes", {}).items():
            users = dict.fromkeys(saved["users"], 1)
            self._volumes[name] = Volume(name, Options(**saved["options"]), saved["created"], users, set(users))

    def state(self) -> dict[str, Any]:
        """Return what is to be saved."""
        return {"volumes": {name: volume.to_json() for name, volume in self._volumes.items()}}

    def save(self) -> None:
        """Save. OSError if that cannot be."""
        self._store.save(self.state())

    def all(self) -> list[Volume]:
        """Return all volumes."""
        return list(self._volumes.values())

    def find(self, name: object) -> Volume | None:
        """Return a volume, None if there is none of that name."""
        return self._volumes.get(name) if isinstance(name, str) else None

    def get(self, name: object) -> Volume:
        """Return a volume. NoVolume if there is none of that name."""
        volume = self.find(name)
        if volume is None:
            raise NoVolume(
                f"there is no volume {name}; create it with docker volume create -d telemount -o address=HOST:PORT"
            )
        return volume

    def create(self, name: object, options: Options) -> Volume:
        """Add a volume; the same again changes nothing. Conflict if there is one with other options."""
        wanted = check_name(name)
        there = self._volumes.get(wanted)
        if there is None:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            there = self._volumes[wanted] = Volume(wanted, options, now)
        elif there.options != options:
            raise Conflict(f"the volume {wanted} exists with other options; remove it first: docker volume rm {wanted}")
        return there

    def remove(self, name: object) -> None:
        """Forget a volume; one that is not there is no error."""
        if isinstance(name, str):
            self._volumes.pop(name, None)
