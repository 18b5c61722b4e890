"""What a benchmark case is, and how it is measured."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Bound(StrEnum):
    """What a case has to keep."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One line of the table.

    Attributes
    ----------
    case : str
        What was measured.
    against : str
        What it is compared with, in the same run.
    shoal, peer : str
        Both sides with their units; ``peer`` is empty when Shoal is compared with a fixed limit.
    figure : float
        What is held against the limit: a ratio, or a value.
    unit : str
        Unit of the figure: ``x`` for ratios, ``ms``, ``%``.
    limit : float or None
        The limit; None for a line that is only there to be read.
    bound : Bound
        On which side of the limit the figure has to be.
    note : str
        What a reader has to know to judge the line.
    """

    case: str
    against: str
    shoal: str
    peer: str = ""
    figure: float
    unit: str
    limit: float | None
    bound: Bound
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the limit is kept."""
        if self.limit is None:
            return True
        return self.figure >= self.limit if self.bound is Bound.AT_LEAST else self.figure <= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much work to spend.

    Attributes
    ----------
    repeats : int
        Measurements per number; the median counts.
    scale : float
        Share of the models and rows, 1 for the published table.
    """

    repeats: int = 5
    scale: float = 1.0

    def models(self, full: int) -> int:
        """How many models to use where the full case has ``full``."""
        return max(20, round(full * self.scale))


Case = Callable[[Effort], list[Result]]
"""A case measures, and returns its lines."""


def median_s(repeats: int, work: Callable[[], object]) -> float:
    """Time some work again and again; the median in seconds."""
    return medians_s(repeats, [work])[0]


def medians_s(repeats: int, works: Sequence[Callable[[], object]]) -> list[float]:
    """Time several works in turns, so that a busy moment of the machine meets all of them; their medians in seconds."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, taken in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def seconds(value: float) -> str:
    """A time as a reader wants it: three figures, with its unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def faster(case: str, against: str, *, shoal_s: float, peer_s: float, limit: float | None, note: str = "") -> Result:
    """The line of a race."""
    return Result(
        case=case,
        against=against,
        shoal=seconds(shoal_s),
        peer=seconds(peer_s),
        figure=peer_s / shoal_s,
        unit="x",
        limit=limit,
        bound=Bound.AT_LEAST,
        note=note,
    )
