import contextlib
import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from shoal.registry import Lineage, ModelRecord, Registry, SnapshotRecord
from shoal.storage.sql import Database
from tests.databases import Databases


@pytest.fixture
def database(databases: Databases) -> Iterator[Database]:
    with contextlib.closing(Database(databases.migrated())) as made:
        yield made


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(database)


Add = Callable[..., SnapshotRecord]


@pytest.fixture
def add(registry: Registry) -> Add:
    """Registers the next snapshot of ``flights``, making the fleet when it is not there."""

    def add_snapshot(models: tuple[ModelRecord, ...] = (), name: str = "flights", **given: object) -> SnapshotRecord:
        if name not in {fleet.name for fleet in registry.fleets()}:
            registry.create_fleet(name, actor="ann")
        version = (registry.fleet(name).latest or 0) + 1
        options = {"digest": f"{name}-{version}", "model_count": len(models), "lineage": Lineage(), "actor": "ann"}
        return registry.add_snapshot(name, models=models, **(options | given))

    return add_snapshot


@pytest.fixture
def model() -> ModelRecord:
    return ModelRecord(
        key_text="origin=EWR,dest=LAX",
        level=("origin", "dest"),
        family="affine",
        rows=60,
        trained_at=dt.datetime(2026, 9, 30, 12, tzinfo=dt.UTC),
        metrics={"mae": 8.25, "r2": 0.5},
    )
