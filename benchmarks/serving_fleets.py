"""Fleets for the benchmarks of serving, registered in a home that a server can be started over."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from benchmarks.population import FEATURES, KEYS, segment
from benchmarks.servers import Server
from shoal.families import pack
from shoal.fleet import Fleet
from shoal.security.permissions import Role
from shoal.settings import Settings
from shoal.table.facts import ModelFacts
from shoal.types import KeyColumn, KeyType, Task
from shoal.workspace import Workspace, open_workspace

ROW = (0.31, -1.2, 0.77, 0.05)
"""What every request asks about."""

ZIPF = 1.1
"""Exponent of how unequally models are asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """A workspace to serve from.

    Attributes
    ----------
    path : Path
        Its folder.
    key : str
        An API key that may do everything.
    workspace : Workspace
        Open.
    """

    path: Path
    key: str
    workspace: Workspace

    def put(self, fleet: Fleet) -> None:
        """Register and promote a fleet."""
        self.workspace.promote(fleet.name, self.workspace.register(fleet).version)


@contextlib.contextmanager
def home(database: str = "") -> Iterator[Home]:
    """A new workspace with an API key, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings.from_environment({"SHOAL_DATABASE_URL": database}, home=name)
        with Workspace(settings) if database else open_workspace(name) as workspace:
            yield Home(path=Path(name), key=workspace.create_key("bench", Role.ADMIN).text, workspace=workspace)


def ridge() -> object:
    """A scaler and a ridge, fitted: what the small models are."""
    X = np.random.default_rng(1).normal(size=(60, len(FEATURES)))
    return make_pipeline(StandardScaler(), Ridge()).fit(X, X @ np.arange(1.0, len(FEATURES) + 1))


def single(name: str = "single") -> Fleet:
    """One ridge, without a key."""
    return Fleet.from_estimators(keys=[], models={(): ridge()}, features=FEATURES, task="regression", name=name)


def ridges(count: int, name: str = "ridges") -> Fleet:
    """Many ridges by two keys; each has its own row of parameters in the table."""
    return _many(ridge(), count, Task.REGRESSION, name)


def machines(count: int, vectors: int, name: str = "machines") -> Fleet:
    """Many one-class support vector machines with so many support vectors each; each has its own rows in the table."""
    X = np.random.default_rng(2).normal(size=(2 * vectors, len(FEATURES)))
    machine = OneClassSVM(nu=0.5, gamma=0.3).fit(X)
    return _many(machine, count, Task.ANOMALY, name)


def _many(estimator: object, count: int, task: Task, name: str) -> Fleet:
    packed, facts = pack(estimator, FEATURES), ModelFacts()
    return Fleet.from_packed(
        keys=[KeyColumn(name=key, type=KeyType.STRING) for key in KEYS],
        levels=[KEYS],
        models=((KEYS, segment(number), packed, facts) for number in range(count)),
        features=[],
        task=task,
        name=name,
    )


def single_request(server: Server, name: str = "single") -> bytes:
    """One row for the fleet without a key."""
    return server.request(f"/v2/models/{name}/infer", {"inputs": _features(1)})


def keyed_requests(server: Server, name: str, numbers: Sequence[int], rows: int = 1) -> list[bytes]:
    """Requests for the models of these numbers, ``rows`` of them in each."""
    chosen = [numbers[start : start + rows] for start in range(0, len(numbers) - rows + 1, rows)]
    return [server.request(f"/v2/models/{name}/infer", {"inputs": _keyed(part)}) for part in chosen]


def zipf_numbers(models: int, count: int, seed: int = 5) -> list[int]:
    """Which models are asked: some very often, most hardly ever."""
    generator = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, models + 1) ** ZIPF
    ranks = generator.choice(models, size=count, p=weights / weights.sum())
    chosen: list[int] = generator.permutation(models)[ranks].tolist()
    return chosen


def even_numbers(models: int, count: int, seed: int = 6) -> list[int]:
    """Which models are asked: all alike, none twice in a row of ``models``."""
    chosen: list[int] = np.random.default_rng(seed).permutation(models)[:count].tolist()
    return chosen


def _keyed(numbers: Sequence[int]) -> list[dict[str, object]]:
    keys = [segment(number) for number in numbers]
    columns = [
        {"name": name, "shape": [len(keys)], "datatype": "BYTES", "data": [key[place] for key in keys]}
        for place, name in enumerate(KEYS)
    ]
    return [*columns, *_features(len(keys))]


def _features(rows: int) -> list[dict[str, object]]:
    return [
        {"name": name, "shape": [rows], "datatype": "FP64", "data": [value] * rows}
        for name, value in zip(FEATURES, ROW, strict=True)
    ]
