"""Read ``--port`` and ``--to-pod``, so that what cannot be right is refused before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from telewire.errors import BadRequest

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PROTOCOLS = ("tcp", "udp")


def ports(given: Iterable[str]) -> list[str]:
    """Return ``LOCAL[:ID][/PROTOCOL]`` texts one by one, whether they were repeated or stand with commas between them.

    :raises BadRequest: one is malformed, or given twice
    """
    found: list[str] = []
    for text in _each(given, "--port"):
        word, protocol = _protocol(text, "--port")
        local, colon, identifier = word.partition(":")
        if ":" in identifier:
            raise BadRequest(
                f"--port {text} has three parts, which is for a daemon outside Docker; write LOCAL[:ID] and publish "
                "ports with -p after `--`"
            )
        number(local, f"--port {text}: LOCAL")
        if identifier.isdecimal():
            number(identifier, f"--port {text}: ID")
        elif colon and not _NAME.fullmatch(identifier):
            raise BadRequest(f"--port {text}: {identifier!r} is neither a port's number nor a name; write LOCAL[:ID]")
        found.append(word + (f"/{protocol}" if protocol else ""))
    return _once(found, "--port")


def to_pod(given: Iterable[str]) -> list[str]:
    """Return ``PORT`` and ``PORT/udp`` texts one by one.

    :raises BadRequest: one is malformed, or given twice
    """
    found = []
    for text in _each(given, "--to-pod"):
        word, protocol = _protocol(text, "--to-pod")
        port = number(word, f"--to-pod {text}: PORT")
        found.append(f"{port}/udp" if protocol == "udp" else str(port))
    return _once(found, "--to-pod")


def check_apart(local: Iterable[tuple[int, str]], pod: Iterable[tuple[int, str]]) -> None:
    """Check that no port of the handler is to be both its own and the pod's.

    :param local: number and protocol of what the handler listens on
    :param pod: number and protocol of what leads to the pod
    :raises BadRequest: one is
    """
    for port, protocol in sorted(set(local) & set(pod)):
        raise BadRequest(
            f"localhost:{port} ({protocol}) of the handler cannot be both its own port and the pod's; "
            "choose another LOCAL in --port, or leave out that --to-pod"
        )


def pair(text: str) -> tuple[int, str]:
    """Return local port and protocol of a text that :func:`ports` or :func:`to_pod` has passed."""
    word, _, protocol = text.partition("/")
    return int(word.partition(":")[0]), protocol or "tcp"


def number(text: str, what: str) -> int:
    """Return a port's number.

    :raises BadRequest: it is none
    """
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise BadRequest(f"{what} is a number from 1 to 65535, not {text!r}")
    return int(text)


def _each(given: Iterable[str], option: str) -> list[str]:
    words = [word.strip() for text in given for word in text.split(",")]
    if "" in words:
        raise BadRequest(f"{option} has an empty value; leave it out or name a port")
    return words


def _protocol(text: str, option: str) -> tuple[str, str]:
    word, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in _PROTOCOLS:
        raise BadRequest(f"{option} {text}: {protocol!r} is no protocol; write /tcp or /udp")
    return word, protocol.lower()


def _once(found: list[str], option: str) -> list[str]:
    for index, text in enumerate(found):
        if text in found[:index]:
            raise BadRequest(f"{option} {text} is given twice; give it once")
    return found
