"""Predictions that nobody waits for: as good as those somebody waits for, once each, in order, and never lost."""

import asyncio
import datetime as dt
import os
import signal
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from shoal import Fleet
from shoal.errors import (
    Conflict,
    ConnectionFailed,
    InvalidArtifact,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    StorageError,
    TooLarge,
    Unavailable,
    Unloaded,
)
from shoal.jobs.states import PredictionState
from shoal.ledger.prediction_records import Backlog
from shoal.serving import claim_loop
from shoal.serving.deferred import Wishes
from shoal.serving.deferred_options import DeferredCounts
from shoal.serving.documents import response_json
from shoal.serving.messages import Datatype, InferenceRequest, Tensor
from shoal.serving.payloads import decode_response
from shoal.storage import sql
from tests.databases import PostgresqlServer
from tests.unit.serving.deferred_world import (
    DEADLINES_S,
    OPTIONS,
    accepted,
    context,
    ended,
    keyed,
    opened,
    process,
    request,
    stood_still,
    until,
    value_of,
    worked_on_too_long,
)
from tests.unit.serving.fleets import FLEETS, constant, request_of, rows_for, tensor

WAITING, CLAIMED, DONE, FAILED, EXPIRED = PredictionState


@pytest.fixture
def workspace(databases, tmp_path):
    with opened(databases.migrated(), tmp_path / "home") as made:
        yield made


@pytest.fixture
def light(sqlite_databases, tmp_path):
    """Where the database makes no difference."""
    with opened(sqlite_databases.migrated(), tmp_path / "home") as made:
        yield made


@pytest.mark.parametrize("kind", FLEETS)
def test_an_answer_later_is_the_answer_at_once(light, kind):
    fleet = FLEETS[kind]()
    name = f"other-{fleet.name}"
    light.promote(name, light.register(fleet, name).version)
    asked = request_of(rows_for(fleet, np.random.default_rng(3), 40), name, id="mine", parameters={"a": 1})

    async def main():
        async with process(light) as (deferred, plane):
            at_once = await plane.plane.infer(asked, context())
            later = await ended(deferred, await accepted(deferred, asked, context(), Wishes()))
        return at_once, later

    at_once, later = asyncio.run(main())
    assert later.state is DONE
    assert response_json(decode_response(later.answer)) == response_json(at_once)


def test_arrays_come_through_bit_by_bit(light):
    x = np.array([1e-300, -0.0, np.nan, 3.5], dtype=np.float64)
    inputs = (
        Tensor(name="device", datatype=Datatype.BYTES, shape=(4,), data=[b"a", b"b", b"a", b"b"]),
        Tensor(name="x", datatype=Datatype.FP64, shape=(4,), data=x),
    )
    asked = InferenceRequest(model="pumps", inputs=inputs, outputs=("prediction", "outcome", "reason"))

    async def main():
        async with process(light) as (deferred, plane):
            at_once = await plane.plane.infer(asked, context())
            return at_once, await ended(deferred, await accepted(deferred, asked, context(), Wishes()))

    at_once, later = asyncio.run(main())
    assert msgspec.json.decode(response_json(decode_response(later.answer))) == msgspec.json.decode(
        response_json(at_once)
    )


def test_many_at_once_are_all_answered_once_each_with_few_kernel_calls(workspace):
    count = 300

    async def main():
        async with process(workspace) as (deferred, plane):
            ids = await asyncio.gather(*[accepted(deferred, request(i), context(), Wishes()) for i in range(count)])
            records = await asyncio.gather(*[ended(deferred, one) for one in ids])
            return ids, records, plane.asked, plane.plane.statistics("pumps")[0].batches

    ids, records, asked, batches = asyncio.run(main())
    assert len(set(ids)) == count
    assert {record.state for record in records} == {DONE}
    assert {record.attempts for record in records} == {1}
    assert sorted(asked) == list(range(count))
    assert batches < count / 5


def test_the_same_key_is_the_same_prediction_whoever_comes_first(workspace):
    async def main():
        async with process(workspace) as (one, _), process(workspace) as (two, _):
            wishes = Wishes(idempotency_key="k")
            ids = await asyncio.gather(*[accepted(by, request(1), context(), wishes) for by in (one, two) * 10])
            with pytest.raises(Conflict, match="another request"):
                await accepted(one, request(2), context(), wishes)
            other = await accepted(two, request(2), context("bob"), wishes)
            await ended(one, ids[0])
            await ended(one, other)
            again = await one.accept(request(1), context(), wishes)
            return {*ids, again.id}, again.state, other, len(workspace.predictions.listed())

    ids, state, other, count = asyncio.run(main())
    assert len(ids) == 1
    assert state is DONE
    assert other not in ids
    assert count == 2


def test_of_one_key_each_waits_for_the_one_before_also_when_that_fails(workspace):
    failures = {3: 2, 5: 9}  # value: how often it fails; 5 goes to the dead letters

    async def main():
        async with process(workspace) as (deferred, plane), process(workspace) as (_, second):

            def fault(request):
                value = request.inputs[1].data[0]
                if failures.get(value, 0) > 0:
                    failures[value] -= 1
                    return ConnectionFailed("the lookup is away; try again")
                return None

            order = []
            for one in (plane, second):
                one.fault = fault
                one.asked = order
            ids = [await accepted(deferred, request(i), context(), keyed("pump-1")) for i in range(8)]
            free = await accepted(deferred, request(100), context(), Wishes())
            records = [await ended(deferred, one) for one in ids]
            await ended(deferred, free)
            return records, [value for value in order if value != 100], max(plane.most_at_once, second.most_at_once)

    records, order, at_once = asyncio.run(main())
    assert order == [0, 1, 2, 3, 3, 3, 4, *[5] * OPTIONS.attempts, 6, 7]
    assert [record.state for record in records] == [DONE] * 5 + [FAILED] + [DONE] * 2
    assert records[5].error == "the lookup is away; try again"
    assert records[5].attempts == OPTIONS.attempts
    assert at_once <= 2


def test_what_failed_for_good_is_tried_again_when_it_is_replayed(light):
    async def main():
        async with process(light) as (deferred, plane):
            plane.fault = lambda request: RuntimeError("our own fault, with a secret")
            one = await accepted(deferred, request(1), context(), Wishes())
            failed = await ended(deferred, one)
            plane.fault = lambda request: None
            await deferred.replay(one)
            done = await ended(deferred, one)
            with pytest.raises(Conflict):
                await deferred.replay(one)
            return failed, done

    failed, done = asyncio.run(main())
    assert (failed.state, failed.attempts) == (FAILED, OPTIONS.attempts)
    assert "secret" not in failed.error
    assert (done.state, value_of(done), done.attempts) == (DONE, 7.0, OPTIONS.attempts + 1)
    assert done.error is None


def test_callers_hear_nothing_of_our_files(light):
    async def main():
        async with process(light) as (deferred, plane):
            plane.fault = lambda request: InvalidArtifact("/secret/blocks/1.arrow: is damaged")
            return await ended(deferred, await accepted(deferred, request(1), context(), Wishes()))

    record = asyncio.run(main())
    assert (record.state, record.attempts) == (FAILED, 1)
    assert "secret" not in record.error
    assert "log" in record.error


def test_a_request_sent_again_is_told_where_it_stands(workspace):
    async def main():
        async with process(workspace) as (deferred, plane):
            plane.may.clear()
            wishes = Wishes(idempotency_key="k")
            first = await deferred.accept(request(1), context(), wishes)
            await until(lambda: plane.asked)
            working = await deferred.accept(request(1), context(), wishes)
            plane.may.set()
            await ended(deferred, first.id)
            done = await deferred.accept(request(1), context(), wishes)
            await accepted(deferred, request(2), context(), Wishes(idempotency_key="other"))
            return first, working, done, deferred.counts

    first, working, done, counts = asyncio.run(main())
    assert [one.state for one in (first, working, done)] == [WAITING, CLAIMED, DONE]
    assert first.id == working.id == done.id
    assert counts.accepted == 2


HOPELESS = {
    "nothing": (InferenceRequest(model="pumps", inputs=()), InvalidInput, "no inputs"),
    "unknown input": (InferenceRequest(model="pumps", inputs=(tensor("y", [1.0]),)), InvalidInput, "no input 'y'"),
    "lacking input": (InferenceRequest(model="pumps", inputs=request().inputs[1:]), InvalidInput, "lacks"),
    "datatype": (request(device=7), InvalidInput, "INT64"),
    "shape": (
        InferenceRequest(model="pumps", inputs=(tensor("device", ["a"]), tensor("x", [1.0, 2.0]))),
        InvalidInput,
        "shape",
    ),
    "output": (InferenceRequest(model="pumps", inputs=request().inputs, outputs=("z",)), InvalidInput, "no output 'z'"),
    "rows": (
        InferenceRequest(model="pumps", inputs=(tensor("device", ["a"] * 21), tensor("x", [1.0] * 21))),
        TooLarge,
        "21 rows",
    ),
    "model": (InferenceRequest(model="pumps:nobody", inputs=request().inputs[1:]), NotFound, "no model"),
    "model without rows": (InferenceRequest(model="pumps:nobody", inputs=(tensor("x", []),)), NotFound, "no model"),
    "version": (InferenceRequest(model="pumps", inputs=request().inputs, version="99"), NotFound, "99"),
    "check": (request(-1.0), InvalidInput, "row 1"),
}


@pytest.mark.parametrize("why", HOPELESS)
def test_what_cannot_be_answered_is_refused_at_once_and_as_it_would_be_without_async(light, why):
    asked, kind, said = HOPELESS[why]
    spec = {"limits": {"max_rows": 20}}
    if why == "check":
        spec["checks"] = {"inputs": {"x": {"min": 0}}, "on_input": "reject"}
    light.set_serving("pumps", spec)

    async def main():
        async with process(light) as (deferred, plane):
            with pytest.raises(kind, match=said) as at_once:
                await plane.plane.infer(asked, context())
            with pytest.raises(kind, match=said) as later:
                await accepted(deferred, asked, context(), Wishes())
            return str(at_once.value), str(later.value), plane.asked, plane.plane.statistics("pumps")[0].rows

    at_once, later, asked_for, rows = asyncio.run(main())
    assert later == at_once
    assert asked_for == light.predictions.listed() == []
    assert rows == (1 if why in ("check", "model") else 0)  # of those asked at once


def test_a_request_sent_again_is_told_where_it_stands_even_if_it_would_be_refused_now(workspace):
    async def main():
        async with process(workspace) as (deferred, plane):
            wishes = Wishes(idempotency_key="k")
            first = await deferred.accept(request(1), context(), wishes)
            await ended(deferred, first.id)
            model = Ridge().fit([[0.0, 1.0], [1.0, 0.0]], [1.0, 2.0])
            wider = Fleet.from_estimators(
                keys=["device"], models={("a",): model}, features=["x", "y"], task="regression", name="pumps"
            )
            workspace.promote("pumps", workspace.register(wider).version)
            await until(lambda: plane.index()[0].version == "2")
            with pytest.raises(InvalidInput, match="lacks"):
                await deferred.accept(request(1), context(), Wishes())
            again = await deferred.accept(request(1), context(), wishes)
            with pytest.raises(Conflict):
                await deferred.accept(request(2), context(), wishes)
            with pytest.raises(InvalidInput, match="lacks"):
                await deferred.accept(request(1), context("bob"), wishes)
            return first, again

    first, again = asyncio.run(main())
    assert (again.id, again.state, again.is_new) == (first.id, DONE, False)


def test_what_can_be_answered_passes_the_checks(light):
    """Rows that are answered by a reason, a single model, another version, no row at all, checks that only report."""
    light.set_serving("pumps", {"checks": {"inputs": {"x": {"min": 0}}, "on_input": "invalid"}})
    nothing = InferenceRequest(model="pumps:b", inputs=(tensor("x", []),))
    single = InferenceRequest(model="pumps:b", inputs=(tensor("x", [1.0]),))
    version = InferenceRequest(model="pumps", inputs=request().inputs, version="1")

    async def main():
        async with process(light) as (deferred, _):
            passing = (request(-1.0), request(None), request(device="unknown"), nothing, single, version)
            ids = [await accepted(deferred, one, context(), Wishes()) for one in passing]
            return [(await ended(deferred, one)).state for one in ids]

    assert asyncio.run(main()) == [DONE] * 6


def test_what_cannot_be_answered_any_more_is_not_tried_again(light):
    """It fitted when it was accepted."""

    async def main():
        async with process(light, claiming=False) as (idle, _):
            one = await accepted(idle, request(), context(), Wishes())
        light.set_serving("pumps", {"checks": {"inputs": {"x": {"min": 100}}, "on_input": "reject"}})
        async with process(light) as (deferred, _):
            return await ended(deferred, one)

    record = asyncio.run(main())
    assert (record.state, record.attempts) == (FAILED, 1)
    assert "row 1" in record.error


def test_a_fleet_that_is_not_served_just_now_takes_requests_for_later(light):
    async def main():
        async with process(light, fleets=["pumps@canary"]) as (deferred, _):
            ids = [await accepted(deferred, one, context(), Wishes()) for one in (request(), HOPELESS["output"][0])]
            light.promote("pumps", 1, alias="canary")
            return [(await ended(deferred, one)).state for one in ids]

    assert asyncio.run(main()) == [DONE, FAILED]


def test_a_fleet_that_was_unloaded_takes_nothing_and_does_what_it_took_before_once_it_is_loaded(light):
    async def main():
        async with process(light) as (deferred, plane):
            plane.may.clear()
            before = await accepted(deferred, request(), context(), Wishes(idempotency_key="k"))
            await until(lambda: plane.asked)
            await plane.plane.unload("pumps", actor="ada")
            plane.may.set()
            await until(lambda: deferred.counts.retried)
            waits = light.predictions.one(before)
            refusals = [await refused(deferred, version) for version in (None, "1")]
            again = await accepted(deferred, request(), context(), Wishes(idempotency_key="k"))
            listed = light.predictions.listed()
            await plane.plane.load("pumps", actor="ada")
            return before, waits, refusals, again, listed, await ended(deferred, before)

    before, waits, refusals, again, listed, done = asyncio.run(main())
    assert refusals == ["the fleet 'pumps' is unloaded; `shoal fleets load pumps` loads it"] * 2
    assert (waits.state, [one.id for one in listed], again) == (WAITING, [before], before)
    assert (done.state, done.attempts) == (DONE, 2)


async def refused(deferred, version):
    """What is said of a request to a fleet that was unloaded."""
    with pytest.raises(Unloaded) as error:
        await accepted(deferred, msgspec.structs.replace(request(), version=version), context(), Wishes())
    assert error.value.retry_after_s is None
    return str(error.value)


def test_a_server_that_is_busy_is_not_the_requests_fault(light):
    left = OPTIONS.attempts * 3

    async def main():
        async with process(light) as (deferred, plane):

            def fault(request):
                nonlocal left
                left -= 1
                return Overloaded("busy; try again", retry_after_s=0.01) if left > 0 else None

            plane.fault = fault
            return await ended(deferred, await accepted(deferred, request(), context(), Wishes()))

    record = asyncio.run(main())
    assert (record.state, record.attempts) == (DONE, OPTIONS.attempts * 3)


def test_what_comes_too_late_is_discarded_and_says_so(workspace):
    async def main():
        async with process(workspace, claiming=False) as (idle, _):
            waited = await accepted(idle, request(1), context(), Wishes(deadline_s=0.05))
            in_time = await accepted(idle, request(2), context(), Wishes(deadline_s=60))
            late = await ended(idle, waited)
            async with process(workspace) as (deferred, plane):
                done = await ended(deferred, in_time)
                slow = await worked_on_too_long(deferred, plane)
                return late, done, await ended(deferred, slow), plane.asked

    late, done, slow, asked = asyncio.run(main())
    assert [one.state for one in (late, done, slow)] == [EXPIRED, DONE, EXPIRED]
    assert late.error == "its deadline passed before it was its turn"
    assert "deadline passed while" in slow.error
    assert late.answer is None
    assert slow.answer is None
    assert 1 not in asked


def test_the_next_of_a_key_goes_on_when_the_one_before_is_discarded(light):
    async def main():
        async with process(light) as (deferred, plane):
            plane.fault = lambda request: (
                NotReady("not yet", retry_after_s=0.01) if request.inputs[1].data[0] == 1 else None
            )
            for deadline_s in DEADLINES_S:
                key = f"k{deadline_s}"
                wishes = Wishes(ordering_key=key, deadline_s=deadline_s)
                first = await accepted(deferred, request(1), context(), wishes)
                second = await accepted(deferred, request(2), context(), keyed(key))
                both = await ended(deferred, first), await ended(deferred, second)
                if both[0].attempts:
                    break
            return both

    first, second = asyncio.run(main())
    assert (first.state, second.state) == (EXPIRED, DONE)
    assert first.error == "its deadline passed before it was tried again; it had failed: not yet"
    assert second.settled_at >= first.settled_at


def test_whoever_waits_is_told_whichever_process_is_done(workspace):
    async def main():
        async with process(workspace, claiming=False) as (asked, _), process(workspace) as (_, plane):
            plane.may.clear()
            one = await accepted(asked, request(), context(), Wishes())
            waiting = [asyncio.create_task(asked.wait(one, 20)) for _ in range(50)]
            await until(lambda: plane.asked)
            assert not any(task.done() for task in waiting)
            plane.may.set()
            await asyncio.gather(*waiting)
            return await asked.get(one)

    assert asyncio.run(main()).state is DONE


def test_waiting_ends_with_its_time_and_when_the_server_ends(light):
    async def main():
        async with process(light, claiming=False) as (deferred, _):
            one = await accepted(deferred, request(), context(), Wishes())
            await deferred.wait(one, 0.05)
            waiting = asyncio.create_task(deferred.wait(one, 60))
            await asyncio.sleep(0.05)
            deferred.close_doors()
            await asyncio.wait_for(waiting, 5)
            await deferred.wait(one, 60)
            return (await deferred.get(one)).state

    assert asyncio.run(main()) is WAITING


def test_more_than_may_wait_is_refused(light):
    options = msgspec.structs.replace(OPTIONS, waiters=2, backlog=3, request_bytes=500)

    async def main():
        async with process(light, options, claiming=False) as (deferred, _):
            ids = [await accepted(deferred, request(i), context(), Wishes()) for i in range(3)]
            with pytest.raises(Overloaded, match="3 predictions"):
                await accepted(deferred, request(4), context(), Wishes())
            waiting = [asyncio.create_task(deferred.wait(ids[0], 20)) for _ in range(2)]
            await asyncio.sleep(0.02)
            with pytest.raises(Overloaded):
                await deferred.wait(ids[1], 20)
            with pytest.raises(TooLarge, match="500 bytes"):
                await accepted(deferred, request(device="x" * 500), context(), Wishes())
            with pytest.raises(NotFound):
                await accepted(deferred, request(model="nobody"), context(), Wishes())
            with pytest.raises(NotFound):
                await accepted(deferred, request(), context(), Wishes(sink="nowhere"))
            deferred.close_doors()
            await asyncio.gather(*waiting)

    asyncio.run(main())


def test_only_what_a_process_serves_is_claimed_by_it(light):
    other = constant(8.0, name="valves")
    light.promote("valves", light.register(other).version)

    async def main():
        async with process(light, fleets=["valves"]) as _, process(light, claiming=False) as (both, _):
            one = await accepted(both, request(), context(), Wishes())
            two = await accepted(both, request(model="valves"), context(), Wishes())
            done = await ended(both, two)
            return done, await both.get(one)

    done, waits = asyncio.run(main())
    assert (value_of(done), waits.state) == (8.0, WAITING)


def test_results_are_forgotten_after_a_while(workspace):
    options = msgspec.structs.replace(OPTIONS, keep_s=0.1)

    async def main():
        async with process(workspace, options) as (deferred, plane):
            plane.fault = lambda request: InvalidInput("no") if request.inputs[1].data[0] == 2 else None
            ids = [await accepted(deferred, request(i), context(), Wishes()) for i in range(4)]
            await until(lambda: not workspace.predictions.listed())
            with pytest.raises(NotFound):
                await deferred.get(ids[0])

    asyncio.run(main())


def test_what_another_took_over_is_dropped(workspace):
    """A process that is slow to come back, e.g. from a debugger: its lease runs out, another one answers."""
    lasting = msgspec.structs.replace(OPTIONS, lease_s=600.0)  # for whoever does not stand still

    async def main():
        async with process(workspace, lasting) as (slow, plane):
            plane.may.clear()
            one = await accepted(slow, request(1), context(), Wishes())
            await until(lambda: plane.asked)
            held = await stood_still(workspace, slow)
            async with process(workspace, lasting) as (other, _):
                done = await ended(other, one)
                slow._loop._held.update(held)
                plane.may.set()
                await until(lambda: not slow._loop._held)
                again = await other.get(one)
        return done, again

    done, again = asyncio.run(main())
    assert (done.state, done.attempts) == (DONE, 2)
    assert again == done


def test_a_process_that_ends_gives_back_what_it_holds(workspace, monkeypatch):
    monkeypatch.setattr(claim_loop, "_LAST_TURN_S", 60.0)  # which a busy machine may need

    async def main():
        async with process(workspace) as (ending, plane):
            plane.may.clear()
            ids = [await accepted(ending, request(i), context(), Wishes()) for i in range(5)]
            await until(lambda: len(plane.asked) == 5)
            await ending.drain(0.05)
            with pytest.raises(NotReady):
                await accepted(ending, request(9), context(), Wishes())
            given_back = [workspace.predictions.one(one) for one in ids]
            async with process(workspace) as (other, _):
                return given_back, [await ended(other, one) for one in ids]

    given_back, done = asyncio.run(main())
    assert {record.state for record in given_back} == {WAITING}
    assert {record.state for record in done} == {DONE}
    assert {record.attempts for record in done} == {2}


def test_without_its_database_nothing_is_accepted_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(sql, "RECONNECT_S", 0.2)
    server = PostgresqlServer(synchronous_commit="on")
    try:
        with opened(server.url(server.take()), tmp_path / "home") as workspace:
            asyncio.run(_database_goes_away(server, workspace))
    finally:
        server.remove()


async def _database_goes_away(server, workspace):
    async with process(workspace) as (deferred, plane):
        plane.may.clear()
        before = [await accepted(deferred, request(i), context(), Wishes()) for i in range(5)]
        await until(lambda: len(plane.asked) == 5)
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        plane.may.set()
        # Which of the two depends on whether the catalogue has noticed already.
        with pytest.raises((StorageError, Unavailable)):
            await accepted(deferred, request(6), context(), Wishes())
        await asyncio.to_thread(server.start)
        started_s, contact = time.monotonic(), plane.plane.contact
        await until(lambda: contact.answered_at_s > started_s and not contact.problem)
        records = [await ended(deferred, one) for one in before]
        after = await ended(deferred, await accepted(deferred, request(7), context(), Wishes()))
    assert {record.state for record in records} == {DONE}
    assert after.state is DONE
    assert {one.state for one in workspace.predictions.listed()} == {DONE}


def test_a_database_that_hangs_does_not_hold_up_the_end(tmp_path):
    server = PostgresqlServer()
    try:
        with opened(server.url(server.take()), tmp_path / "home") as workspace:

            async def main():
                async with process(workspace) as (deferred, _):
                    await ended(deferred, await accepted(deferred, request(), context(), Wishes()))
                    under = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
                    everybody = [server.pid, *map(int, under.split())]
                    for pid in everybody:
                        os.kill(pid, signal.SIGSTOP)
                    try:
                        await asyncio.sleep(0.5)  # it looks for work many times a second, so it hangs in one by now
                        await asyncio.wait_for(deferred.drain(0.2), 20)
                    finally:
                        for pid in everybody:
                            os.kill(pid, signal.SIGCONT)

            asyncio.run(main())
    finally:
        server.remove()


def test_times_are_the_databases(workspace):
    async def main():
        async with process(workspace) as (deferred, _):
            return await ended(deferred, await accepted(deferred, request(), context(), Wishes(deadline_s=60)))

    record = asyncio.run(main())
    assert record.accepted_at <= record.settled_at < record.expires_at < record.forget_at
    assert record.expires_at - record.accepted_at == dt.timedelta(seconds=60)


def test_what_becomes_of_predictions_is_counted_where_it_happens(light):
    options = msgspec.structs.replace(OPTIONS, attempts=2)

    async def main():
        async with process(light, options, claiming=False) as (idle, _):
            late = await accepted(idle, request(1), context(), Wishes(deadline_s=0.05))
            waiting = await accepted(idle, request(2), context(), Wishes())
            await ended(idle, late)
            await until(lambda: idle.backlog.waiting == 1 and idle.oldest_s() > 0.1)
            async with process(light, options) as (deferred, plane):
                await ended(deferred, waiting)
                plane.fault = lambda request: RuntimeError("no")
                await ended(deferred, await accepted(deferred, request(3), context(), Wishes()))
                await until(lambda: idle.backlog == deferred.backlog == Backlog(dead=1))
                return idle.counts, deferred.counts, deferred.oldest_s()

    idle, working, oldest_s = asyncio.run(main())
    assert idle == DeferredCounts(accepted=2, expired=1)
    assert working == DeferredCounts(accepted=1, done=1, retried=1, failed=1)
    assert oldest_s == 0.0
