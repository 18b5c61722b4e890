"""What the registry said last is known to all processes of a server, and one of them asks for all."""

import asyncio
import contextlib
import datetime as dt
import os

import pytest

from shoal.registry import ServerRecord
from shoal.server import surveys
from shoal.server.surveys import Surveys
from shoal.serving.contact import Contact
from shoal.serving.services import Described, Surveyor
from shoal.settings import Settings
from shoal.telemetry.pages import Page, new_page
from shoal.workspace import Workspace
from tests.unit.serving.deferred_world import until
from tests.unit.serving.fleets import constant

RECORD = ServerRecord(
    id="one",
    url="http://localhost:1",
    admin_url="http://localhost:2",
    category="wärme",
    fleets={"pumps": 1},
    missed={"pumps": 2},
    staleness_s=0.125,
    started_at=dt.datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=dt.UTC),
)


class Counting:
    """A registry that counts its questions."""

    def __init__(self, registry):
        self._registry = registry
        self.asked = []

    def __getattr__(self, name):
        self.asked.append(name)
        return getattr(self._registry, name)


class Away:
    """A contact that knows that the registry is away."""

    problem = "gone"


@pytest.fixture
def workspace(sqlite_databases, tmp_path):
    with Workspace(Settings(home=tmp_path / "home", database_url=sqlite_databases.migrated(), actor="ada")) as made:
        made.register(constant(7.0), tags=["air", "é"])
        made.registry.beat(RECORD)
        yield made


@pytest.fixture
def pages():
    descriptors = [new_page(), new_page()]
    yield [Page(one) for one in descriptors]
    for one in descriptors:
        os.close(one)


def test_what_one_process_heard_another_tells_to_the_letter(workspace, pages):
    async def main():
        nothing = await Surveys(workspace.registry, Away(), pages, 1).last()
        heard = await Surveys(workspace.registry, Contact(), pages, 0).now()
        neighbour = Surveys(workspace.registry, Away(), pages, 1)
        return nothing, heard, await neighbour.now(), await neighbour.last()

    nothing, heard, unasked, (told, age_s) = asyncio.run(main())
    assert (nothing, unasked) == (None, None)
    assert told == heard == Surveyor(workspace.registry).survey()
    assert told.fleets == {"pumps": Described(tags=("air", "é"))}
    assert told.servers[0].started_at == RECORD.started_at
    assert told.servers[0].beat_at.utcoffset() == dt.timedelta(0)
    assert age_s > 0


def test_a_process_does_not_ask_what_another_has_asked_lately(workspace, pages, monkeypatch):
    monkeypatch.setattr(surveys, "LOOK_S", 0.001)
    monkeypatch.setattr(surveys, "LATELY_S", 3600.0)
    first, second = Counting(workspace.registry), Counting(workspace.registry)
    looks = []
    is_due = Surveys._is_due
    monkeypatch.setattr(Surveys, "_is_due", lambda self: looks.append(self) or is_due(self))

    async def main():
        one, two = (Surveys(registry, Contact(), pages, n) for n, registry in enumerate((first, second)))
        async with asyncio.timeout(60), working(one):
            await until(lambda: pages[0].read())
            async with working(two):
                await until(lambda: looks.count(two) > 5)
                asked = first.asked.count("servers"), second.asked.count("servers")
                monkeypatch.setattr(surveys, "LATELY_S", 0.0)
                await until(lambda: second.asked.count("servers") > 2)
                return asked

    assert asyncio.run(main()) == (1, 0)


@contextlib.asynccontextmanager
async def working(one):
    task = asyncio.create_task(one.work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_fleets_are_asked_for_where_something_changed_only(workspace):
    registry = Counting(workspace.registry)
    surveyor = Surveyor(registry)
    for _ in range(3):
        assert surveyor.survey() == Surveyor(workspace.registry).survey()
    assert registry.asked == ["head", "serving", "keys", "servers", "head", "servers", "head", "servers"]
    workspace.describe("pumps", tags=["water"])
    workspace.registry.forget_server("one")
    assert surveyor.survey() == Surveyor(workspace.registry).survey()
    assert registry.asked[-4:] == ["head", "serving", "keys", "servers"]
