"""Fleets with durable results keep those of requests that nobody waits for as well: once each, and as long as said."""

import asyncio
import datetime as dt

import msgspec
import polars as pl
import pytest

from shoal.errors import InvalidInput
from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionKind
from shoal.serving.deferred import Wishes
from shoal.serving.payloads import decode_request, decode_response
from shoal.serving.sinks import document, load_sink
from tests.unit.serving.deferred_world import (
    OPTIONS,
    accepted,
    context,
    ended,
    opened,
    process,
    request,
    stood_still,
    until,
    worked_on_too_long,
)
from tests.unit.serving.fleets import constant

WAITING, CLAIMED, DONE, FAILED, EXPIRED = PredictionState
ASKED = msgspec.structs.replace(request(), outputs=("prediction",))


@pytest.fixture
def workspace(databases, tmp_path):
    with opened(databases.migrated(), tmp_path / "home") as made:
        for name in ("all", "mine"):
            spec = {"kind": "parquet_sink", "folder": str(tmp_path / name)}
            made.registry.set_source(name, document(load_sink(spec)), actor="ada")
        made.set_serving("pumps", {"store": "durable", "keep_s": 3600, "sink": "all"})
        yield made


def arrived(tmp_path, sink):
    """The ids of what a folder got, in order."""
    files = sorted((tmp_path / sink).glob("pumps/*.parquet"))
    return sorted(pl.concat([pl.read_parquet(file) for file in files])["prediction_id"]) if files else []


async def kept(workspace, request_id, count=1):
    """The durable results of a request, once their sinks have them."""

    def are_done():
        return sum(one.state is DONE for one in workspace.predictions.of_request(request_id)) == count

    await until(are_done)
    return workspace.predictions.of_request(request_id)


def test_a_result_is_kept_as_long_as_the_fleet_says_and_goes_to_its_sink(workspace, tmp_path):
    async def main():
        async with process(workspace) as (deferred, _):
            asked = await ended(deferred, await accepted(deferred, ASKED, context(), Wishes()))
            return asked, await kept(workspace, "r1")

    asked, [durable] = asyncio.run(main())
    assert (asked.kind, asked.state, asked.sink) == (PredictionKind.DEFERRED, DONE, None)
    assert [one.name for one in decode_response(asked.answer).outputs] == ["prediction"]
    assert (durable.kind, durable.sink, durable.principal) == (PredictionKind.STORED, "all", "ada")
    assert durable.forget_at - durable.settled_at == dt.timedelta(hours=1)
    assert {one.name: list(one.data) for one in decode_request(durable.request).inputs} == {"device": ["a"], "x": [0.5]}
    assert {"prediction", "outcome", "model_level"} <= {one.name for one in decode_response(durable.answer).outputs}
    assert arrived(tmp_path, "all") == [durable.id]


def test_it_is_there_when_the_request_is_done_whether_or_not_its_sink_is(workspace, tmp_path):
    (tmp_path / "all").write_text("in the way")
    # Its attempts must not be used up before anybody has looked.
    patient = msgspec.structs.replace(OPTIONS, backoff_s=0.2, longest_backoff_s=1.0)

    async def main():
        async with process(workspace, patient) as (deferred, _):
            asked = await ended(deferred, await accepted(deferred, ASKED, context(), Wishes()))
            there = workspace.predictions.of_request("r1")
            (tmp_path / "all").unlink()
            return asked, there, await kept(workspace, "r1")

    asked, [there], [durable] = asyncio.run(main())
    assert (asked.state, there.id, there.is_settled) == (DONE, durable.id, False)
    assert arrived(tmp_path, "all") == [durable.id]


@pytest.mark.parametrize("own", ["mine", "all"])
def test_a_sink_of_the_requests_own_gets_it_beside_the_fleets_and_each_gets_it_once(workspace, tmp_path, own):
    async def main():
        async with process(workspace) as (deferred, _):
            asked = await ended(deferred, await accepted(deferred, ASKED, context(), Wishes(sink=own)))
            return asked, await kept(workspace, "r1")

    asked, [durable] = asyncio.run(main())
    assert asked.state is DONE
    assert arrived(tmp_path, own) == [asked.id]
    assert arrived(tmp_path, "all") == [durable.id if own == "mine" else asked.id]


def test_of_two_who_answer_the_result_of_the_one_that_counts_is_kept(workspace, tmp_path):
    lasting = msgspec.structs.replace(OPTIONS, lease_s=600.0)  # for whoever does not stand still

    async def main():
        async with process(workspace, lasting) as (slow, plane):
            plane.may.clear()
            one = await accepted(slow, ASKED, context(), Wishes())
            await until(lambda: plane.asked)
            held = await stood_still(workspace, slow)
            async with process(workspace, lasting) as (other, _):
                done = await ended(other, one)
                [first] = await kept(workspace, "r1")
                workspace.promote("pumps", workspace.register(constant(8.0)).version)
                await until(lambda: plane.index()[0].version == "2")
                slow._loop._held.update(held)
                plane.may.set()
                await until(lambda: not slow._loop._held)
                return done, first, await kept(workspace, "r1")

    done, first, after = asyncio.run(main())
    assert done.attempts == 2
    assert after == [first]
    assert arrived(tmp_path, "all") == [first.id]


def test_a_delivery_that_is_tried_again_keeps_one_result(workspace, tmp_path):
    """The answer is written down before the request's own sink gets it; a later attempt only delivers."""
    (tmp_path / "mine").write_text("in the way")

    async def main():
        async with process(workspace) as (deferred, plane):
            one = await accepted(deferred, ASKED, context(), Wishes(sink="mine"))
            failed = await ended(deferred, one)
            (tmp_path / "mine").unlink()
            workspace.promote("pumps", workspace.register(constant(8.0)).version)
            await until(lambda: plane.index()[0].version == "2")
            await deferred.replay(one)
            return failed, await ended(deferred, one), await kept(workspace, "r1"), plane.asked

    failed, done, [durable], asked = asyncio.run(main())
    assert (failed.state, done.state, len(asked)) == (FAILED, DONE, 1)
    assert decode_response(durable.answer).outputs[0].data[0] == 7.0
    assert (arrived(tmp_path, "mine"), arrived(tmp_path, "all")) == ([done.id], [durable.id])


def test_what_is_not_answered_is_not_kept(workspace):
    async def main():
        async with process(workspace) as (deferred, plane):
            plane.fault = lambda request: InvalidInput("no")
            await ended(deferred, await accepted(deferred, ASKED, context(), Wishes()))
            plane.fault = lambda request: None
            late = await worked_on_too_long(deferred, plane)
            return await ended(deferred, late), workspace.predictions.of_request("r1")

    late, durable = asyncio.run(main())
    assert (late.state, durable) == (EXPIRED, [])


def test_of_one_request_id_each_prediction_is_kept(workspace, tmp_path):
    """Whoever means the same request twice says so by an idempotency key, and cannot take that of a durable result."""

    async def main():
        async with process(workspace) as (deferred, _):
            wishes = [Wishes(idempotency_key="k"), Wishes(idempotency_key="k"), Wishes()]
            ids = [await accepted(deferred, ASKED, context(), one) for one in wishes]
            for one in ids:
                await ended(deferred, one)
            return await kept(workspace, "r1", 2)

    durable = asyncio.run(main())
    assert arrived(tmp_path, "all") == sorted(one.id for one in durable)
    for one in durable:
        with pytest.raises(InvalidInput):
            Wishes(idempotency_key=one.idempotency_key).require_usable()


def test_a_durable_result_is_kept_with_the_answer_that_a_table_did_not_take(workspace, tmp_path):
    """Nothing is written down before a table gets it, so the attempt that fails keeps both."""
    url = f"sqlite:///{tmp_path / 'none' / 'results.sqlite'}"
    spec = {"kind": "sql_sink", "url": url, "table": "results"}
    workspace.registry.set_source("table", document(load_sink(spec)), actor="ada")

    async def main():
        async with process(workspace) as (deferred, plane):
            one = await accepted(deferred, ASKED, context(), Wishes(sink="table"))
            failed, there = await ended(deferred, one), await kept(workspace, "r1")
            (tmp_path / "none").mkdir()
            await deferred.replay(one)
            return failed, there, await ended(deferred, one), await kept(workspace, "r1"), plane.asked

    failed, there, done, durable, asked = asyncio.run(main())
    assert (failed.state, done.state, done.answer, len(asked)) == (FAILED, DONE, failed.answer, 1)
    assert [one.id for one in there] == [one.id for one in durable] == arrived(tmp_path, "all")
