"""Cost per row when the fleet grows and the rows stay the same in number."""

from functools import partial

import numpy as np
import polars as pl

from benchmarks.case import Bound, Effort, Result, medians_s, seconds
from benchmarks.fleets import MACHINES
from benchmarks.population import FEATURES, KEYS, populate
from shoal.fleet import Fleet

SIZES = (1_000, 10_000, 100_000)
ROWS = 1_000_000
DISTINCT = 1_000
LIMIT_PERCENT = 25


def flat(effort: Effort) -> list[Result]:
    """Score a million rows with a thousand, ten thousand and a hundred thousand kernel machines."""
    rows = round(ROWS * max(effort.scale, 0.1))
    prepared = [_prepared(effort.models(size), rows) for size in SIZES]
    works = [partial(fleet.predict, frame) for fleet, frame in prepared]
    times = medians_s(effort.repeats, works)
    costs = [taken / frame.height for taken, (_, frame) in zip(times, prepared, strict=True)]
    cheapest, dearest = min(costs), max(costs)
    return [
        Result(
            case=f"cost per row of {rows:,} rows, {' / '.join(f'{size:,}' for size in SIZES)} kernel machines",
            against="itself",
            shoal=" / ".join(seconds(cost) for cost in costs),
            figure=100 * (dearest / cheapest - 1),
            unit="%",
            limit=LIMIT_PERCENT,
            bound=Bound.AT_MOST,
            note=f"every model an object of its own, deep copies of {DISTINCT:,} fits",
        )
    ]


def _prepared(models: int, rows: int) -> tuple[Fleet, pl.DataFrame]:
    """A fleet and the rows it is asked, scored once before the clock starts."""
    population = populate(MACHINES.fit, models=models, rows_each=max(rows // models, 1), distinct=DISTINCT)
    fleet = Fleet.from_estimators(keys=KEYS, models=population.models, features=FEATURES, task=MACHINES.task)
    answers = fleet.predict(population.frame)["score"]
    if not np.isfinite(answers.to_numpy()).all():
        raise AssertionError("a row of the benchmark got no answer")
    return fleet, population.frame


CASES = {"flat": flat}
