"""What it takes to open a large fleet, and to put new winners into it."""

import tempfile
from pathlib import Path

from benchmarks.case import Bound, Effort, Result, median_s, seconds
from benchmarks.fleets import MACHINES
from benchmarks.population import FEATURES, KEYS, Key, populate, segment
from shoal.fleet import Fleet

MODELS = 100_000
WINNERS = 100
DISTINCT = 1_000


def opening(effort: Effort) -> list[Result]:
    """Open a fleet that this machine has verified before."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = _fleet(effort.models(MODELS), seed=1)
        fleet.save(folder)
        first_s = median_s(1, lambda: Fleet.load(folder))
        again_s = median_s(effort.repeats, lambda: Fleet.load(folder))
    return [
        Result(
            case=f"opening a verified fleet of {len(fleet):,} models",
            against="a fixed limit",
            shoal=seconds(again_s),
            figure=again_s * 1e3,
            unit="ms",
            limit=50,
            bound=Bound.AT_MOST,
            note=f"the first opening, which checks every digest, offset and index, took {seconds(first_s)}",
        )
    ]


def promoting(effort: Effort) -> list[Result]:
    """Merge a hundred retrained models into the fleet and count the bytes that a save has to write."""
    fleet = _fleet(effort.models(MODELS), seed=1)
    winners = _fleet(WINNERS, seed=2)
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as fresh:
        fleet.save(kept)
        merged = fleet.merge(winners)
        added = merged.save(kept)
        whole = merged.save(Path(fresh))
    return [
        Result(
            case=f"promoting {WINNERS} winners of {len(fleet):,} models",
            against="rewriting the fleet",
            shoal=f"{added / 1e6:.2f} MB",
            peer=f"{whole / 1e6:.2f} MB",
            figure=whole / added,
            unit="x",
            limit=20,
            bound=Bound.AT_LEAST,
            note="bytes written",
        )
    ]


def _fleet(models: int, *, seed: int) -> Fleet:
    population = populate(MACHINES.fit, models=models, rows_each=1, distinct=DISTINCT, seed=seed)
    by_segment: dict[Key, object] = {segment(number): model for number, model in enumerate(population.models.values())}
    return Fleet.from_estimators(keys=KEYS, models=by_segment, features=FEATURES, task=MACHINES.task)


CASES = {"opening": opening, "promoting": promoting}
