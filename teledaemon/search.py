"""Which names are asked of the cluster for one that a container asks for. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def absolute(name: str) -> str:
    """Return a DNS name in lower case with its final dot."""
    return name.lower().rstrip(".") + "."


def candidates(name: str, search: Sequence[str], ndots: int) -> tuple[list[str], str | None]:
    """Return the names that the search list makes of ``name``, in order of preference, and the name as it stands.

    This is what a resolver in a pod does (resolv.conf(5)); one that does it itself asks for names in one of the search domains, which
    are taken as they stand. A name without a dot is never one as it stands (None): nobody on the internet has to be asked.
    """
    wanted = absolute(name)
    domains = [absolute(domain) for domain in search]
    dots = wanted.count(".") - 1
    whole = wanted if dots > 0 else None
    if wanted == "." or any(wanted.endswith("." + domain) for domain in domains):
        return [], wanted
    if dots >= max(ndots, 1) or wanted.endswith(".arpa."):
        return [], whole
    return [wanted + domain for domain in domains if len(wanted + domain) <= 254], whole
