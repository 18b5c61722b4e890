import contextlib
import datetime as dt
from collections.abc import Callable, Iterator

import pytest

from shoal.jobs.states import RunState
from shoal.ledger import Ledger, RunRecord, ShardPlan
from shoal.storage.sql import Database
from tests.databases import Databases


class HandClock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = dt.datetime(2026, 11, 21, 4, 40, 12, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += dt.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(databases: Databases, clock: HandClock) -> Iterator[Database]:
    with contextlib.closing(Database(databases.migrated(), clock=clock)) as made:
        yield made


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def start(ledger: Ledger) -> Callable[..., RunRecord]:
    """Makes a run of so many shards and starts it."""

    def start_run(shards: int = 3, *, running: bool = True, **given: object) -> RunRecord:
        plans = [ShardPlan(number=number, source={"first": number * 10}) for number in range(shards)]
        options = {"kind": "score", "fleet": "flights", "version": 3, "spec": {}, "inputs": (), "actor": "ann"}
        run = ledger.create_run(shards=plans, **(options | given))
        return ledger.transition(run.id, RunState.RUNNING) if running else run

    return start_run
