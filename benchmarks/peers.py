"""How everybody else scores many models. Each peer returns its answers by key, and gets the better deal."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import joblib
import numpy as np

from benchmarks.population import FEATURES, KEYS, Key, Matrix, Population

Answers = Mapping[Key, Matrix]


def loop(population: Population, method: str) -> Answers:
    """Call model after model; all are in memory and the rows are grouped already."""
    return {key: getattr(model, method)(population.rows[key]) for key, model in population.models.items()}


class Files:
    """The usual way: one joblib file per model, loaded when its turn comes; the rows are grouped already."""

    def __init__(self, population: Population, method: str) -> None:
        self._population, self._method = population, method
        self._folder = tempfile.TemporaryDirectory()
        self._paths = {}
        for number, (key, model) in enumerate(population.models.items()):
            self._paths[key] = Path(self._folder.name) / f"{number}.joblib"
            joblib.dump(model, self._paths[key])

    def __enter__(self) -> Callable[[], Answers]:
        return self._score

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _score(self) -> Answers:
        rows = self._population.rows
        return {key: getattr(joblib.load(path), self._method)(rows[key]) for key, path in self._paths.items()}


class RayData:
    """Ray Data's ``groupby().map_groups()`` on all cores.

    Ray itself is started and the rows are in its object store as Arrow before the clock starts, and a worker fetches
    the models once and keeps them. Grouping is Ray's own work, as it is Shoal's; by default it
    shuffles the groups into 200 partitions.
    """

    def __init__(self, population: Population, method: str, *, cores: int, partitions: int | None = None) -> None:
        self._population, self._method, self._cores, self._partitions = population, method, cores, partitions

    def __enter__(self) -> Callable[[], object]:
        import ray

        ray.init(num_cpus=self._cores, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._models = ray.put(dict(self._population.models))
        self._rows = ray.data.from_arrow(self._population.frame.to_arrow()).materialize()
        return self._score

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def _score(self) -> object:
        grouped = self._rows.groupby(list(KEYS), num_partitions=self._partitions)
        score = partial(_score_group, models=self._models, method=self._method)
        return grouped.map_groups(score, batch_format="numpy").materialize()


_HELD: dict[str, Mapping[Key, object]] = {}
"""A Ray worker's models, kept from group to group."""


def _score_group(group: dict[str, np.ndarray], *, models: object, method: str) -> dict[str, np.ndarray]:
    """What Ray calls per group."""
    import ray

    if "models" not in _HELD:
        _HELD["models"] = ray.get(models)
    model = _HELD["models"][str(group["device"][0]), str(group["sensor"][0])]
    answer = getattr(model, method)(np.column_stack([group[name] for name in FEATURES]))
    return {"device": group["device"], "sensor": group["sensor"], "answer": answer}
