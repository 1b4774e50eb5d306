"""The lines that are printed: ``name value unit peer ratio target verdict``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_FORMAT = "{:<26} {:>9} {:<7} {:>9} {:>7}  {:<9} {}"
HEADER = _FORMAT.format("name", "value", "unit", "peer", "ratio", "target", "").rstrip()


@dataclass(frozen=True)
class Target:
    """What a row is held to.

    :ivar sign: how the figure has to compare with ``bound``
    :ivar of: which figure: the value, its ratio to the peer's, or what it is more than the peer's
    """

    sign: Literal["<", "≤", "≥", "="]
    bound: float
    of: Literal["value", "ratio", "difference"] = "value"

    def __str__(self) -> str:
        mark = {"value": "", "ratio": "×", "difference": "+"}[self.of]
        return f"{self.sign}{mark}{self.bound:g}"

    def is_met(self, value: float, peer: float | None) -> bool:
        """Whether a figure meets it; never without the peer that it speaks of."""
        if self.of != "value":
            if not peer:
                return False
            value = value / peer if self.of == "ratio" else value - peer
        return {
            "<": value < self.bound,
            "≤": value <= self.bound,
            "≥": value >= self.bound,
            "=": value == self.bound,
        }[self.sign]


@dataclass(frozen=True)
class Row:
    """One figure.

    :ivar peer: the peer's figure in the same unit, None if there is none to compare with
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing if there is no target."""
        if self.target is None:
            return ""
        return "met" if self.target.is_met(self.value, self.peer) else "missed"

    def __str__(self) -> str:
        ratio = f"{self.value / self.peer:.2f}" if self.peer else "-"
        peer = "-" if self.peer is None else _figure(self.peer)
        target = "-" if self.target is None else str(self.target)
        return _FORMAT.format(self.name, _figure(self.value), self.unit, peer, ratio, target, self.verdict).rstrip()


def _figure(value: float) -> str:
    """Return three digits of what is small, and all before the point of what is not."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def median(values: Iterable[float]) -> float:
    """Return the median, which one disturbed run does not move."""
    return statistics.median(values)
