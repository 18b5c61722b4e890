"""What a data plane keeps of requests: the log after the answer, durable results before it."""

import asyncio
import contextlib
import datetime as dt
import itertools
import sqlite3
import time
from types import SimpleNamespace

import polars as pl
import pytest

from shoal.errors import DeadlineExceeded, InvalidInput, InvalidSpec, Unavailable
from shoal.ledger import PredictionKind
from shoal.serving import keeping
from shoal.serving.durable import DurableStore
from shoal.serving.log import scan_log
from shoal.serving.messages import RequestContext
from shoal.serving.options import ServingOptions
from shoal.serving.payloads import decode_request, decode_response
from tests.unit.serving.fleets import CONTEXT, constant, pumps, request_of

FRAME = pl.DataFrame({"device": ["a", "b:1", "nobody"], "sensor": ["s1", "s1", "s2"], "x": [0.5, 5.0, 0.5],
                      "y": [0.0, 0.0, 0.0], "z": [1.0, 1.0, None]})  # fmt: skip
DURABLE = {"store": "durable"}


@pytest.fixture
def serve(publish):
    """Runs a coroutine with a data plane that serves one fleet with a spec."""

    def run(fleet, spec, work):
        workspace = publish(fleet)
        workspace.set_serving(fleet.name, spec)

        async def main():
            plane = workspace.data_plane([fleet.name], options=ServingOptions(poll_s=0.01))
            await plane.start()
            try:
                return await work(plane, workspace)
            finally:
                await plane.drain(30)  # returns when the log is written

        return asyncio.run(main())

    return run


def context(name, **given):
    return RequestContext(request_id=name, principal="ada", **given)


def log_of(workspace, fleet="pumps"):
    return scan_log(workspace.settings.home / "predictions", fleet).collect()


def answers_of(response):
    return {output.name: list(output.data) for output in response.outputs}


def test_answered_requests_are_logged_when_the_server_ends(serve):
    fleet, since = pumps(), dt.datetime.now(dt.UTC)
    spec = {"log": {}, "rules": {"note": "CASE WHEN x > 1 THEN 'much' ELSE 'little' END"}}

    async def work(plane, workspace):
        await asyncio.gather(*[plane.infer(request_of(FRAME, "pumps"), context(f"r{n}")) for n in range(20)])
        single = request_of(FRAME[[0]], "pumps:a:s1", leave_out=("device", "sensor"))
        await plane.infer(single, context("single"))
        coarse = request_of(FRAME[[0]], "pumps:a:*", leave_out=("device", "sensor"))
        await plane.infer(coarse, context("coarse"))
        with pytest.raises(InvalidInput):
            await plane.infer(request_of(FRAME, "pumps", leave_out=("x",)), context("refused"))
        assert workspace.predictions.listed() == []
        return workspace, plane

    workspace, plane = serve(fleet, spec, work)
    found = log_of(workspace).sort("time", maintain_order=True)
    assert plane.kept().written_rows == found.height
    truth = fleet.predict(FRAME, model_level=True)
    for number in range(20):
        rows = found.filter(pl.col("request_id") == f"r{number}")
        assert rows.select("device", "sensor", "x", "y", "z").rows() == FRAME.rows()
        assert rows["row"].to_list() == [0, 1, 2]
        assert rows["prediction"].to_list() == truth["prediction"].to_list()
        assert rows["model_level"].to_list() == truth["model_level"].cast(pl.String).to_list()
        assert rows["note"].to_list() == ["little", "much", None]
    assert set(found["principal"]) == {"ada"}
    assert found["time"].min() >= since
    assert found["latency_ms"].min() > 0
    [alone] = found.filter(pl.col("request_id") == "single").rows(named=True)
    assert (alone["model"], alone["device"], alone["sensor"], alone["version"]) == ("pumps:a:s1", "a", "s1", 1)
    [coarse] = found.filter(pl.col("request_id") == "coarse").rows(named=True)
    assert (coarse["sensor"], coarse["model_level"], coarse["outcome"]) == (None, "device", "scored")
    assert "refused" not in set(found["request_id"])


def test_only_a_sample_is_logged(serve):
    async def work(plane, workspace):
        for number in range(600):
            await plane.infer(request_of(FRAME[[0]], "pumps"), context(f"r{number}"))
        return workspace

    found = log_of(serve(pumps(), {"log": {"sample": 0.25, "columns": ["device", "prediction"]}}, work))
    assert 80 < found.height < 240
    assert not {"x", "sensor"} & set(found.columns)


def test_columns_that_are_none_are_refused(publish):
    workspace = publish(pumps())
    with pytest.raises(InvalidSpec, match=r"log\.columns.*'speed'"):
        workspace.set_serving("pumps", {"log": {"columns": ["device", "speed"]}})
    with pytest.raises(InvalidSpec, match="keep_s"):
        workspace.set_serving("pumps", {"keep_s": 60})


def test_remembered_and_looked_up_rows_are_logged_whole(serve, publish, tmp_path):
    database = tmp_path / "features.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE units (device TEXT PRIMARY KEY, x REAL)")
        connection.execute("INSERT INTO units VALUES ('a', 0.25)")
    workspace = publish(constant(3.0))
    workspace.set_source("units", {"kind": "sql", "url": f"sqlite:///{database}", "table": "units"})
    lookup = {"source": "units", "keys": ["device"], "features": ["x"], "defaults": {"x": -1.0}, "timeout_ms": 5000}
    frame = pl.DataFrame({"device": ["a", "b"]})

    async def work(plane, workspace):
        for number in range(3):
            await plane.infer(request_of(frame, "pumps"), context(f"r{number}"))
        [kept] = workspace.predictions.of_request("r0")
        return workspace, kept

    spec = {"log": {}, "lookup": lookup, "cache": {"ttl_s": 60}, **DURABLE}
    workspace, kept = serve(constant(3.0), spec, work)
    found = log_of(workspace)
    assert found["x"].to_list() == [0.25, -1.0] * 3
    assert found["prediction"].to_list() == [3.0] * 6
    assert {tensor.name: list(tensor.data) for tensor in decode_request(kept.request).inputs}["x"] == [0.25, -1.0]


def test_a_durable_result_is_there_when_it_is_answered(serve):
    async def work(plane, workspace):
        response = await plane.infer(request_of(FRAME, "pumps"), context("one"))
        [kept] = workspace.predictions.of_request("one")
        handed = []
        await plane.infer(request_of(FRAME, "pumps"), context("one", keep=handed.append))
        await plane.infer(request_of(FRAME, "pumps"), context("deferred", keep=handed.append))
        assert workspace.predictions.of_request("deferred") == []
        assert workspace.predictions.of_request("one") == [kept]
        return response, kept, handed

    response, kept, handed = serve(pumps(), {**DURABLE, "keep_s": 3600}, work)
    told = answers_of(decode_response(kept.answer))
    assert {name: told[name] for name in answers_of(response)} == answers_of(response)
    assert told["model_level"] == ["device+sensor", "device+sensor", None]
    assert (kept.kind, kept.fleet, kept.principal) == (PredictionKind.STORED, "pumps", "ada")
    assert kept.forget_at - kept.settled_at == dt.timedelta(hours=1)
    same, other = handed
    assert (same.request, same.answer, same.idempotency_key) == (kept.request, kept.answer, kept.idempotency_key)
    assert (other.kind, other.request_id, other.keep_s) == (PredictionKind.STORED, "deferred", 3600)


def test_a_request_that_is_sent_again_is_kept_once(serve):
    async def work(plane, workspace):
        ask = request_of(FRAME, "pumps")
        await asyncio.gather(*[plane.infer(ask, context("same")) for _ in range(10)])
        await plane.infer(ask, context("same"))
        await plane.infer(request_of(FRAME[[0]], "pumps"), context("same"))  # another request under the same id
        await plane.infer(ask, RequestContext(request_id="same", principal="bob"))
        return workspace.predictions.of_request("same")

    found = serve(pumps(), DURABLE, work)
    assert [(one.principal, len(decode_request(one.request).inputs[0].data)) for one in found] == [
        ("bob", 3), ("ada", 1), ("ada", 3),
    ]  # fmt: skip


def test_what_cannot_be_committed_is_not_answered(serve):
    async def work(plane, workspace):
        path = workspace.settings.home / "shoal.db"
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("ALTER TABLE predictions RENAME TO elsewhere")
        with pytest.raises(Unavailable, match="not answered") as refused:
            await plane.infer(request_of(FRAME, "pumps"), CONTEXT)
        assert "shoal.db" not in str(refused.value)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("ALTER TABLE elsewhere RENAME TO predictions")
        await plane.infer(request_of(FRAME, "pumps"), context("again"))
        [total] = plane.totals()
        assert (total.requests, total.failures) == (1, 1)
        return workspace.predictions.of_request("again")

    assert len(serve(pumps(), DURABLE, work)) == 1


def test_a_commit_that_takes_too_long_is_not_waited_for(serve, monkeypatch):
    # All of its time but a moment is over when it comes to be committed, and none before that.
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + 59.95, time=time.time, perf_counter_ns=time.perf_counter_ns
    )
    monkeypatch.setattr(keeping, "time", clock)

    async def work(plane, workspace):
        path = workspace.settings.home / "shoal.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(DeadlineExceeded, match="committed in time"):
                await plane.infer(request_of(FRAME, "pumps"), context("late", deadline_s=time.monotonic() + 60))
            connection.execute("ROLLBACK")
        await plane.infer(request_of(FRAME, "pumps"), context("next"))
        return workspace.predictions.of_request("next")

    assert len(serve(pumps(), DURABLE, work)) == 1


class Clock:
    """Stands in for ``time.perf_counter_ns``: each look takes a microsecond, and what is waited for is set by hand."""

    def __init__(self):
        self._looks = itertools.count(10**9)
        self.waited_ns = 0

    def __call__(self):
        return 1000 * next(self._looks) + self.waited_ns


HELD_NS = 2 * 10**9


@pytest.mark.parametrize("rows", [1, 3000, 6000])
def test_reading_and_writing_tensors_is_measured_and_nothing_else_is(serve, rows, monkeypatch):
    """One row, many in pieces, and so many that the worker thread reads them; the commit counts for none of it."""
    frame = pl.DataFrame({"device": ["a"] * rows, "x": [0.5] * rows})
    clock, commit = Clock(), DurableStore.commit
    monkeypatch.setattr(time, "perf_counter_ns", clock)

    async def work(plane, workspace):
        committing = asyncio.Event()

        def seen(*given, **more):
            committing.set()
            return commit(*given, **more)

        await plane.infer(request_of(frame, "pumps"), context("first"))
        before = plane.statistics("pumps")[0]
        with contextlib.closing(sqlite3.connect(workspace.settings.home / "shoal.db")) as busy:
            busy.execute("BEGIN IMMEDIATE")
            monkeypatch.setattr(DurableStore, "commit", seen)
            asking = asyncio.create_task(plane.infer(request_of(frame, "pumps"), context("second")))
            await committing.wait()
            clock.waited_ns += HELD_NS
            busy.rollback()
            await asking
        after = plane.statistics("pumps")[0]
        names = ("requests", "input_ns", "output_ns", "request_ns")
        return [getattr(after, name) - getattr(before, name) for name in names]

    requests, input_ns, output_ns, request_ns = serve(constant(7.0), DURABLE, work)
    assert requests == 1
    assert request_ns > HELD_NS
    assert 0 < input_ns < request_ns / 3
    assert 0 < output_ns < request_ns / 3
