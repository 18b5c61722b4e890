"""What follows from a failure: neighbours that are away count, a server that is not able just now does not."""

import asyncio
import itertools
import signal
import time

import msgspec
import pytest

from shoal.errors import DeadlineExceeded
from shoal.jobs.states import PredictionState
from shoal.serving.deferred import Wishes
from shoal.serving.messages import InferenceRequest, RequestContext
from tests.lookup_servers import RedisServer
from tests.unit.serving.deferred_world import (
    OPTIONS,
    accepted,
    context,
    ended,
    keyed,
    opened,
    process,
    request,
    until,
    value_of,
)
from tests.unit.serving.fleets import tensor

WAITING, CLAIMED, DONE, FAILED, EXPIRED = PredictionState
BY_KEY = InferenceRequest(model="pumps", inputs=(tensor("device", ["a"]),))
LOOKUP = {"source": "units", "keys": ["device"], "features": ["x"], "on_failure": "fail", "timeout_ms": 5000}


@pytest.fixture
def light(sqlite_databases, tmp_path):
    with opened(sqlite_databases.migrated(), tmp_path / "home") as made:
        yield made


@pytest.fixture
def units(light):
    """A source of features that does not run yet."""
    server = RedisServer()
    light.set_source("units", {"kind": "redis", "url": server.url, "key": "unit:{device}"})
    light.set_serving("pumps", {"lookup": LOOKUP})
    yield server
    server.stop()


def test_a_lookup_that_is_away_is_tried_five_times_ever_later_and_lets_the_next_of_its_key_go_on(light, units):
    options = msgspec.structs.replace(OPTIONS, backoff_s=0.1, longest_backoff_s=60.0)
    tried_s = []

    async def main():
        async with process(light, options) as (deferred, plane):
            plane.fault = lambda asked: tried_s.append(time.monotonic()) if len(asked.inputs) == 1 else None
            failing = await accepted(deferred, BY_KEY, context(), keyed("k"))
            behind = await accepted(deferred, request(), context(), keyed("k"))  # which needs no lookup
            failed, done = await ended(deferred, failing), await ended(deferred, behind)
            units.start()
            with units.client() as client:
                client.hset("unit:a", "x", 1.0)
            await deferred.replay(failing)
            return failed, done, await ended(deferred, failing)

    failed, done, replayed = asyncio.run(main())
    assert (failed.state, failed.attempts) == (FAILED, OPTIONS.attempts)
    assert "'units'" in failed.error
    assert done.state is DONE
    assert done.settled_at >= failed.settled_at
    assert (replayed.state, value_of(replayed)) == (DONE, 7.0)
    waited_s = [after - before for before, after in itertools.pairwise(tried_s[: OPTIONS.attempts])]
    assert all(waited >= 0.8 * 0.1 * 2**number for number, waited in enumerate(waited_s)), waited_s


def test_a_request_whose_own_time_is_over_while_a_source_hangs_came_too_late(light, units):
    light.set_serving("pumps", {"lookup": {**LOOKUP, "timeout_ms": 60_000}})
    units.start()
    units.signal(signal.SIGSTOP)

    async def main():
        async with process(light) as (deferred, plane):
            hurried = RequestContext(request_id="r1", principal="ada", deadline_s=time.monotonic() + 0.2)
            with pytest.raises(DeadlineExceeded):
                await plane.plane.infer(BY_KEY, hurried)
            late = await ended(deferred, await accepted(deferred, BY_KEY, context(), Wishes(deadline_s=0.2)))
            units.signal(signal.SIGCONT)
            return late

    assert asyncio.run(main()).state is EXPIRED


def test_a_fleets_own_limit_is_a_failed_attempt_as_long_as_the_request_has_time(light, units):
    """However often the limit is over: the request's own time is not."""
    light.set_serving("pumps", {"lookup": {**LOOKUP, "timeout_ms": 60_000}, "limits": {"timeout_s": 0.1}})
    units.start()
    with units.client() as client:
        client.hset("unit:a", "x", 1.0)
    units.signal(signal.SIGSTOP)

    async def main():
        async with process(light, msgspec.structs.replace(OPTIONS, attempts=1000)) as (deferred, _):
            one = await accepted(deferred, BY_KEY, context(), Wishes(deadline_s=600.0))
            await until(lambda: deferred.counts.retried > 1 or deferred.counts.expired)
            between = await deferred.get(one)
            units.signal(signal.SIGCONT)
            return between, await ended(deferred, one)

    between, done = asyncio.run(main())
    assert not between.is_settled, between
    assert "limits.timeout_s" in between.error
    assert (done.state, value_of(done)) == (DONE, 7.0)
    assert done.attempts > 2
    assert done.settled_at < done.expires_at


def test_a_fleets_own_limit_costs_no_more_attempts_than_there_are(light, units):
    light.set_serving("pumps", {"lookup": {**LOOKUP, "timeout_ms": 60_000}, "limits": {"timeout_s": 0.1}})
    units.start()
    units.signal(signal.SIGSTOP)

    async def main():
        async with process(light) as (deferred, _):
            return await ended(deferred, await accepted(deferred, BY_KEY, context(), Wishes(deadline_s=600.0)))

    failed = asyncio.run(main())
    units.signal(signal.SIGCONT)
    assert (failed.state, failed.attempts) == (FAILED, OPTIONS.attempts)


def test_what_a_server_does_not_serve_any_more_is_given_back_and_done_by_another(light):
    light.describe("pumps", category="north")
    once = msgspec.structs.replace(OPTIONS, attempts=1)

    async def main():
        async with process(light, once, category="north") as (deferred, plane):
            plane.may.clear()
            one = await accepted(deferred, request(), context(), Wishes())
            await until(lambda: plane.asked)
            light.describe("pumps", category="south")
            await until(lambda: not plane.serves("pumps"))
            plane.may.set()
            await until(lambda: deferred.counts.retried)
            given_back = await deferred.get(one)
            async with process(light, once) as (other, _):
                return given_back, await ended(other, one)

    given_back, done = asyncio.run(main())
    assert (given_back.state, given_back.attempts) == (WAITING, 1)
    assert (done.state, done.attempts) == (DONE, 2)
