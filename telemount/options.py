"""The options of a volume (``docker volume create -o …``), validated without touching the network."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from telewire.errors import BadRequest

NAMES = ("address", "token", "export", "dir", "ro", "uid", "gid", "umask", "cache")
DEFAULT_CACHE = 1.0
MAX_CACHE = 3600.0
_TRUE = frozenset({"", "true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class BadOption(BadRequest):
    """An option of a volume is unknown, missing or malformed."""


@dataclass(frozen=True, slots=True)
class Options:
    """Where a volume's files are and how they are shown.

    ``token`` and ``export`` are empty for a bare SFTP server. ``uid``, ``gid`` and ``umask`` are None to show what the remote
    says. ``cache`` is in seconds.
    """

    host: str
    port: int
    token: str = ""
    export: str = ""
    dir: str = "/"
    ro: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    cache: float = DEFAULT_CACHE

    @property
    def address(self) -> str:
        """``HOST:PORT``, as a person writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_json(self) -> dict[str, Any]:
        """Return all fields; ``Options(**fields)`` undoes it."""
        return asdict(self)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or any(c.isspace() or c == "/" for c in host) or not port.isascii() or not port.isdigit():
        raise BadOption(f"the option address is {text!r}; it has to be HOST:PORT, or [IPV6]:PORT")
    if not 0 < int(port) < 65536:
        raise BadOption(f"the option address is {text!r}; its port has to be 1 to 65535")
    return host, int(port)


def _word(name: str, text: str) -> str:
    if not text or len(text) > 1024 or not text.isprintable() or not text.isascii() or " " in text:
        raise BadOption(f"the option {name} has to be one word of printable ASCII characters")
    return text


def _directory(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise BadOption(f"the option dir is {text!r}; it has to be an absolute path in the remote container")
    if ".." in text.split("/"):
        raise BadOption(f"the option dir is {text!r}; it must not hold '..'")
    return "/" + posixpath.normpath(text).lstrip("/")


def _flag(name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise BadOption(f"the option {name} is {text!r}; it has to be true or false")


def _number(name: str, text: str, base: int, most: int, what: str) -> int:
    digits = "0123456789"[:base]
    if not text or any(c not in digits for c in text) or int(text, base) > most:
        raise BadOption(f"the option {name} is {text!r}; it has to be {what}")
    return int(text, base)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_CACHE:
        raise BadOption(f"the option cache is {text!r}; it has to be seconds, 0 to {MAX_CACHE:g}")
    return value


def parse(options: Mapping[str, Any] | None) -> Options:
    """Return what ``docker volume create -o`` means. BadOption names what is wrong, and what would be right."""
    given = dict(options or {})
    for name, value in given.items():
        if name not in NAMES:
            near = difflib.get_close_matches(str(name), NAMES, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise BadOption(f"there is no option {name!r}{meant}; the options are {', '.join(NAMES)}")
        if not isinstance(value, str):
            raise BadOption(f"the option {name} has to be text")
    if "address" not in given:
        raise BadOption(
            "the option address is missing: -o address=HOST:PORT of the SFTP server or of the daemon's exports"
        )
    if ("token" in given) != ("export" in given):
        there, missing = ("token", "export") if "token" in given else ("export", "token")
        raise BadOption(f"the option {there} needs {missing} as well; a bare SFTP server takes neither")
    host, port = _address(given.pop("address"))
    owner = "a number from 0 to 4294967294"
    parsers: dict[str, Callable[[str], Any]] = {
        "token": lambda text: _word("token", text),
        "export": lambda text: _word("export", text),
        "dir": _directory,
        "ro": lambda text: _flag("ro", text),
        "uid": lambda text: _number("uid", text, 10, 0xFFFFFFFE, owner),
        "gid": lambda text: _number("gid", text, 10, 0xFFFFFFFE, owner),
        "umask": lambda text: _number("umask", text, 8, 0o777, "octal, 0 to 777"),
        "cache": _seconds,
    }
    return Options(host, port, **{name: parsers[name](value) for name, value in given.items()})
