"""What holds over REST holds over gRPC: readiness while the server ends, time limits, and how much is under way."""

import asyncio
import contextlib
import sqlite3
import time
from types import SimpleNamespace

import grpc
import pytest
from grpc_world import LOOKED_UP, request, run

from shoal.server import under_way
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.options import Limits


@contextlib.contextmanager
def locked(workspace):
    """Nothing can be written to the registry, and whoever wants to waits."""
    with contextlib.closing(sqlite3.connect(workspace.settings.home / "shoal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def refused(here, name, message, timeout=30, **metadata):
    """Status and details of a call that fails, and how long it took."""
    began_s = time.monotonic()
    given = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await here.unary(name)(message, timeout=timeout, metadata=given)
    return error.value.code().name, error.value.details(), time.monotonic() - began_s


def test_readiness_is_refused_while_traffic_is_not_wanted_and_calls_are_answered(workspace):
    async def work(here):
        async def ready():
            server = await here.unary("ServerReady")(pb.ServerReadyRequest(), timeout=30)
            model = await here.unary("ModelReady")(pb.ModelReadyRequest(name="pumps"), timeout=30)
            version = await here.unary("ModelReady")(pb.ModelReadyRequest(name="pumps", version="1"), timeout=30)
            return server.ready, model.ready, version.ready

        before = await ready()
        here.traffic.drain()
        after = await ready()
        live = await here.unary("ServerLive")(pb.ServerLiveRequest(), timeout=30)
        answer = await here.unary("ModelInfer")(request(x=1.0), timeout=30)
        unknown = await refused(here, "ModelReady", pb.ModelReadyRequest(name="nobody"))
        return before, after, live.live, len(answer.outputs) > 0, unknown[0]

    assert run(workspace, work) == ((True,) * 3, (False,) * 3, True, True, "NOT_FOUND")


def test_a_call_that_waits_for_a_slow_lookup_ends_in_time(workspace, slow_lookup):
    async def work(here):
        by_caller = await refused(here, "ModelInfer", request(), request_timeout="0.2")
        by_server = await refused(here, "ModelInfer", request())
        told = asyncio.Event()

        async def messages():
            yield request()
            await told.wait()
            here.under_way._limits = Limits()  # what is answered at once may take its time on a busy machine
            yield request(x=1.0)

        answers = []
        async for answer in here.stream()(messages(), timeout=30):
            answers.append(answer)
            told.set()
        return by_caller, by_server, answers

    *calls, (late, answered) = run(workspace, work, limits=Limits(request_s=1.0))
    for code, details, took_s in calls:
        assert (code, took_s < 30) == ("DEADLINE_EXCEEDED", True), details
        assert details != "Deadline Exceeded"  # which is gRPC's own word for it
    assert "time" in late.error_message or "long" in late.error_message
    assert not answered.error_message


def test_a_call_that_waits_for_anything_at_all_ends_in_time(workspace):
    async def work(here):
        with locked(workspace):
            return await refused(here, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="pumps"))

    code, details, _ = run(workspace, work, limits=Limits(request_s=0.3))
    assert code == "DEADLINE_EXCEEDED"
    assert "it took longer than it may" in details


def test_a_fleet_that_was_unloaded_says_so_and_not_when_to_come_back(workspace):
    async def work(here):
        await here.plane.unload("pumps", actor="ada")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await here.unary("ModelInfer")(request(x=1.0), timeout=30)
        return error.value

    error = run(workspace, work)
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNAVAILABLE, "the fleet 'pumps' is unloaded; `shoal fleets load pumps` loads it",
    )  # fmt: skip
    assert "retry-after" not in dict(error.trailing_metadata())


def test_the_time_that_a_fleet_gives_its_requests_holds_whatever_else_does(workspace, slow_lookup):
    workspace.set_serving("pumps", {**LOOKED_UP, "limits": {"timeout_s": 0.2}})

    async def work(here):
        return [await refused(here, "ModelInfer", request(), **more) for more in ({}, {"request_timeout": "30"})]

    for code, details, took_s in run(workspace, work):
        assert (code, took_s < 30) == ("DEADLINE_EXCEEDED", True), details


def test_the_soonest_of_all_deadlines_holds(workspace):
    async def work(here):
        with locked(workspace):
            unload = pb.RepositoryModelUnloadRequest(model_name="pumps")
            asked = await refused(here, "RepositoryModelUnload", unload, request_timeout="0.2")
            own = await refused(here, "RepositoryModelUnload", unload, timeout=0.2, request_timeout="30")
        return asked[:2], own[0]

    asked, own = run(workspace, work)
    assert asked == ("DEADLINE_EXCEEDED", "it took longer than it may; ask for less, or give it more time")
    assert own == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("text", ["x", "-1", "nan", "0"])
def test_a_time_that_is_none_is_refused(workspace, text):
    async def work(here):
        streamed = [a async for a in here.stream()(iter([request(x=1.0)]), metadata=(("request-timeout", text),))]
        return await refused(here, "ModelInfer", request(x=1.0), request_timeout=text), streamed

    (code, details, _), (streamed,) = run(workspace, work)
    assert code == "INVALID_ARGUMENT"
    assert details == streamed.error_message
    assert "Request-Timeout" in details


def test_a_stream_may_stay_for_longer_than_each_of_its_requests(workspace, monkeypatch):
    limits = Limits(request_s=0.5)
    # Moved by hand, and ahead of the clock that others go by: no request takes any time.
    now_s = time.monotonic() + 3600
    monkeypatch.setattr(under_way, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(under_way, "_SWEEP_S", 0.01)

    async def work(here):
        first = asyncio.Event()

        async def messages():
            nonlocal now_s
            yield request(x=1.0)
            await first.wait()
            now_s += 3 * limits.request_s
            await asyncio.sleep(0.2)  # for the sweep to look
            yield request(x=2.0)

        answers = []
        async for answer in here.stream()(messages(), timeout=30):
            answers.append(answer.error_message)
            first.set()
        return answers

    assert run(workspace, work, limits=limits) == ["", ""]


def test_more_than_may_be_under_way_is_refused_at_once(workspace):
    limits = Limits(requests=1, request_s=25.0)

    async def work(here):
        with locked(workspace):
            unload = pb.RepositoryModelUnloadRequest(model_name="pumps")
            first = asyncio.ensure_future(here.unary("RepositoryModelUnload")(unload, timeout=30))
            while not here.under_way:
                await asyncio.sleep(0.01)
            other = await refused(here, "ModelInfer", request(x=1.0))
        await first
        after = await here.unary("RepositoryModelLoad")(pb.RepositoryModelLoadRequest(model_name="pumps"), timeout=30)
        return other[:2], after

    (code, details), _ = run(workspace, work, limits=limits)
    assert code == "RESOURCE_EXHAUSTED"
    assert "too many requests" in details
