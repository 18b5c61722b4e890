"""Durable results: committed before they are answered, many in one transaction, found again by request."""

import asyncio
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from shoal.errors import Overloaded, StorageError
from shoal.jobs.states import PredictionState
from shoal.ledger import Ledger, PredictionKind
from shoal.serving.durable import DurableStore
from shoal.serving.group_commit import GroupCommit
from shoal.serving.payloads import decode_request, decode_response
from shoal.storage.sql import Database
from tests.unit.serving.fleets import FLEETS, pumps, rows_for
from tests.unit.serving.logged import Asked, pieces


@pytest.fixture
def predictions(databases):
    return Ledger(Database(databases.migrated())).predictions


@pytest.mark.parametrize("kind", FLEETS)
def test_what_was_asked_and_answered_is_found_by_request(predictions, kind):
    fleet = FLEETS[kind]()
    asked, frame = Asked(fleet, version=4), rows_for(fleet, np.random.default_rng(5), 30)
    made = asked.logged(pieces(frame, 3))

    async def main():
        store = DurableStore(predictions)
        ids = await asyncio.gather(*[store.commit(one) for one in made])
        store.close()
        return ids

    ids = asyncio.run(main())
    assert len(set(ids)) == 10
    truth = fleet.predict(frame)
    for number, prediction_id in enumerate(ids):
        [record] = predictions.of_request(f"r{number}")
        assert record == predictions.one(prediction_id)
        assert (record.kind, record.state) == (PredictionKind.STORED, PredictionState.DONE)
        assert (record.fleet, record.principal, record.forget_at) == (fleet.name, "ada", None)
        request, response = decode_request(record.request), decode_response(record.answer)
        rows = frame[number * 3 : number * 3 + 3]
        for tensor in request.inputs:
            told = rows[tensor.name].cast(pl.String) if rows[tensor.name].dtype == pl.Date else rows[tensor.name]
            assert [None if value != value else value for value in list(tensor.data)] == told.to_list()
        answers = {tensor.name: tensor for tensor in response.outputs}
        assert response.model_version == "4"
        name = "score" if "score" in answers else "prediction"
        assert list(answers[name].data) == truth[name][number * 3 : number * 3 + 3].to_list()


def test_results_that_come_together_are_committed_together(predictions, monkeypatch):
    fleet = pumps()
    made = Asked(fleet).logged([rows_for(fleet, np.random.default_rng(5), 1)] * 400)
    groups = []
    store = type(predictions).store
    monkeypatch.setattr(type(predictions), "store", lambda self, new: groups.append(len(new)) or store(self, new))

    async def main():
        store = DurableStore(predictions)
        await asyncio.gather(*[store.commit(one) for one in made])
        store.close()

    asyncio.run(main())
    assert sum(groups) == 400
    assert len(groups) <= 3
    assert len(predictions.listed(limit=1000)) == 400


def test_an_answered_result_survives_a_kill(sqlite_databases):
    url = sqlite_databases.migrated()
    script = f"""
import asyncio, os, signal
import numpy as np
from shoal.ledger import Ledger
from shoal.serving.durable import DurableStore
from shoal.storage.sql import Database
from tests.unit.serving.fleets import pumps, rows_for
from tests.unit.serving.logged import Asked
fleet = pumps()
made = Asked(fleet).logged([rows_for(fleet, np.random.default_rng(5), 1)] * 20)
async def main():
    store = DurableStore(Ledger(Database({url!r})).predictions)
    print(*await asyncio.gather(*[store.commit(one) for one in made]), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    ids = done.stdout.split()
    assert len(ids) == 20, done.stderr
    kept = Ledger(Database(url)).predictions
    assert {kept.one(one).state for one in ids} == {PredictionState.DONE}


def test_a_database_that_is_gone_is_said_to_every_caller(tmp_path):
    fleet = pumps()
    made = Asked(fleet).logged([rows_for(fleet, np.random.default_rng(5), 1)] * 3)
    database = Database(f"sqlite:///{tmp_path / 'nowhere' / 'shoal.db'}", patience_s=0.1)

    async def main():
        store = DurableStore(Ledger(database).predictions)
        found = await asyncio.gather(*[store.commit(one) for one in made], return_exceptions=True)
        store.close()
        with pytest.raises(StorageError, match="ends"):
            await store.commit(made[0])
        return found

    assert [type(one) for one in asyncio.run(main())] == [StorageError] * 3


def test_what_waits_is_bounded():
    async def main():
        release = asyncio.Event()
        loop = asyncio.get_running_loop()

        def commit(items):
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
            return items

        group = GroupCommit(commit, queue_items=3, queue_bytes=100)
        first = group.submit(0, 10)
        while group._waiting:
            await asyncio.sleep(0.001)
        later = [group.submit(number, 10) for number in (1, 2, 3)]
        with pytest.raises(Overloaded, match="wait to be committed"):
            group.submit(4, 10)
        release.set()
        assert await asyncio.gather(first, *later) == [0, 1, 2, 3]
        large = group.submit(5, 1000)
        assert await large == 5
        group.close()

    asyncio.run(main())


def test_an_error_of_one_is_not_that_of_the_others():
    async def main():
        group = GroupCommit(lambda items: [Overloaded("no") if item == 2 else item for item in items])
        found = await asyncio.gather(*[group.submit(number, 1) for number in range(4)], return_exceptions=True)
        group.close()
        return found

    found = asyncio.run(main())
    assert [one for one in found if not isinstance(one, Exception)] == [0, 1, 3]
    assert isinstance(found[2], Overloaded)
