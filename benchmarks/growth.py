"""Cost per row when the fleet grows and the rows stay the same in number."""

import numpy as np

from benchmarks.case import Bound, Effort, Result, median_s, seconds
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
    costs = {size: _cost_per_row_s(effort.models(size), rows, effort) for size in SIZES}
    cheapest, dearest = min(costs.values()), max(costs.values())
    return [
        Result(
            case=f"cost per row of {rows:,} rows, {' / '.join(f'{size:,}' for size in SIZES)} kernel machines",
            against="itself",
            shoal=" / ".join(seconds(cost) for cost in costs.values()),
            figure=100 * (dearest / cheapest - 1),
            unit="%",
            limit=LIMIT_PERCENT,
            bound=Bound.AT_MOST,
            note=f"every model an object of its own, deep copies of {DISTINCT:,} fits",
        )
    ]


def _cost_per_row_s(models: int, rows: int, effort: Effort) -> float:
    population = populate(MACHINES.fit, models=models, rows_each=max(rows // models, 1), distinct=DISTINCT)
    fleet = Fleet.from_estimators(keys=KEYS, models=population.models, features=FEATURES, task=MACHINES.task)
    frame = population.frame
    answers = fleet.predict(frame)["score"]
    if not np.isfinite(answers.to_numpy()).all():
        raise AssertionError("a row of the benchmark got no answer")
    return median_s(effort.repeats, lambda: fleet.predict(frame)) / frame.height


CASES = {"flat": flat}
