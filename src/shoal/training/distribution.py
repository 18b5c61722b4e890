"""How rows spread over segments, and whether the keys are a sensible choice."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from shoal.training.segments import Segments
from shoal.training.spec import TrainSpec
from shoal.types import Integers

_QUANTILES = {"minimum": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "maximum": 1.0}
_BAR = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """How training rows spread over segments.

    Attributes
    ----------
    segments, rows : int
        How many segments share how many training rows.
    minimum_rows : int
        What a segment needs to be tried.
    too_few : int
        Segments with fewer.
    rows_in_them : int
        Training rows of those.
    quantiles : mapping of str to float
        Of the rows per segment.
    histogram : mapping of str to int
        Segments by their number of rows, e.g. ``{"1": 3, "2-4": 10}``.
    cardinalities : mapping of str to int
        How many different values each key column has.
    """

    segments: int
    rows: int
    minimum_rows: int
    too_few: int
    rows_in_them: int
    quantiles: Mapping[str, float] = field(default_factory=dict)
    histogram: Mapping[str, int] = field(default_factory=dict)
    cardinalities: Mapping[str, int] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The histogram as text, one line per bin."""
        if not self.histogram:
            return []
        most = max(self.histogram.values())
        wide = max(len(name) for name in self.histogram)
        return [
            f"{name:>{wide}} rows  {'█' * max(1, round(_BAR * count / most)) if count else '':<{_BAR}}  {count:,}"
            for name, count in self.histogram.items()
        ]

    @property
    def warnings(self) -> list[str]:
        """What to think about before the long work."""
        if not self.segments or self.too_few * 2 <= self.segments:
            return []
        text = (
            f"{self.too_few:,} of {self.segments:,} segments have fewer than {self.minimum_rows} training rows and "
            f"get no model of their own ({self.rows_in_them / self.rows:.0%} of the rows)."
        )
        name, values = max(self.cardinalities.items(), key=lambda item: item[1])
        return [
            f"{text} Key {name!r} has {values:,} different values"
            + (", almost one per row: it looks like an identifier" if values * 5 > self.rows else "")
            + "; leave it out, group its values, or lower minimum_rows."
        ]


def distribution(frame: pl.DataFrame, segments: Segments, spec: TrainSpec) -> Distribution:
    """Describe how the training rows spread over the segments of the finest level."""
    rows = segments.train
    few = rows < spec.minimum_rows
    return Distribution(
        segments=len(segments),
        rows=int(rows.sum()),
        minimum_rows=spec.minimum_rows,
        too_few=int(few.sum()) if spec.keys else 0,
        rows_in_them=int(rows[few].sum()),
        quantiles={name: float(np.quantile(rows, q)) for name, q in _QUANTILES.items()},
        histogram=_histogram(rows),
        cardinalities={name: frame[name].n_unique() for name in spec.keys},
    )


def _histogram(rows: Integers) -> dict[str, int]:
    """Segments by rows, in bins that grow as 1, 2, 5, 10, 20, 50, ..."""
    top = int(rows.max(initial=0))
    borders = [0, 1, 2, 5, 10]
    while borders[-1] <= top:
        borders += [borders[-1] * 2, borders[-1] * 5, borders[-1] * 10]
    counts = np.histogram(rows, bins=[*borders, np.inf])[0]
    used = np.flatnonzero(counts)
    return {_bin(borders[i], borders[i + 1] - 1): int(counts[i]) for i in range(used[0], used[-1] + 1)}


def _bin(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
