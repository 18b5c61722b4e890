"""Messages over gRPC are read once their caller is let in, and no more of them than the worker has room for."""

import asyncio
import datetime as dt
from dataclasses import replace

import grpc
import pytest
from grpc_world import BODY_BYTES, request, run
from stack_world import Keys

from shoal.security.permissions import Role
from shoal.server import under_way
from shoal.server.calls import SERVICE
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.grpc import service
from shoal.server.options import Limits

PATIENCE_S = 60


def raw(here, name="ModelInfer"):
    """A call whose messages are bytes, any number of them."""
    return here.channel.stream_unary(f"/{SERVICE}/{name}")


async def never():
    """A caller who sends no message, and does not say that none comes."""
    await asyncio.sleep(2 * PATIENCE_S)
    yield b""


async def failed(call):
    """Code and details of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call, PATIENCE_S)
    return error.value.code().name, error.value.details()


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_who_has_no_key_is_refused_before_anything_is_read(workspace):
    keys = Keys()
    keys.make(Role.PREDICTOR)

    async def work(here):
        return await failed(raw(here)(never()))

    code, details = run(workspace, work, keys=keys)
    assert code == "UNAUTHENTICATED"
    assert "say who you are" in details


@pytest.mark.usefixtures("slow_lookup")
def test_no_more_bytes_are_under_way_than_there_is_room_for(workspace):
    size = BODY_BYTES // 2

    async def work(here):
        infer = here.unary("ModelInfer")
        first = infer(request(padding_bytes=size), timeout=PATIENCE_S)
        waiting = asyncio.ensure_future(first)
        await until(lambda: here.under_way._bodies_bytes >= size)
        refused = await failed(infer(request(padding_bytes=size)))
        stream = here.stream()(iter([request(padding_bytes=size)]))
        streamed = [answer.error_message async for answer in stream]
        answered = await infer(request(x=1.0))
        first.cancel()
        await asyncio.wait([waiting])
        await until(lambda: not here.under_way._bodies_bytes)
        return refused, streamed, answered

    limits = Limits(body_bytes=BODY_BYTES, bodies_bytes=BODY_BYTES, request_s=PATIENCE_S)
    (code, details), streamed, answered = run(workspace, work, limits=limits)
    assert code == "RESOURCE_EXHAUSTED"
    assert details == "too many bytes are under way; try again in a second"
    assert streamed == [details]
    assert answered.outputs[0].name == "prediction"


def test_messages_that_come_slowly_are_bounded_in_number_and_in_time(workspace, monkeypatch):
    monkeypatch.setattr(under_way, "_SWEEP_S", 0.02)
    monkeypatch.setattr(under_way, "SLOW_MESSAGES", 2)

    async def work(here):
        slow = [asyncio.ensure_future(failed(raw(here)(never()))) for _ in range(3)]
        done, _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
        answered = await here.unary("ModelInfer")(request(x=1.0))
        here.under_way._limits = Limits(body_s=0.01)
        return done.pop().result(), await asyncio.gather(*slow), answered

    first, ends, answered = run(workspace, work)
    assert first == ("RESOURCE_EXHAUSTED", "too many messages are coming slowly; try again in a second")
    late = ("DEADLINE_EXCEEDED", "the message had not come after 0.01 s; send it faster")
    assert sorted(ends) == sorted([first, late, late])
    assert answered.outputs[0].name == "prediction"


def test_what_is_no_message_is_the_callers_mistake(workspace):
    async def work(here):
        async def messages(*given):
            for one in given:
                yield one

        return [
            await failed(raw(here)(messages(b"\xff\xff\xff"))),
            await failed(raw(here)(messages())),
            await failed(here.unary("ModelInfer")(request(padding_bytes=BODY_BYTES))),
        ]

    broken, none, large = run(workspace, work)
    assert broken[0] == "INVALID_ARGUMENT"
    assert "no ModelInferRequest" in broken[1]
    assert none == ("INVALID_ARGUMENT", "the call ended without a message")
    assert large[0] == "RESOURCE_EXHAUSTED"
    assert str(BODY_BYTES) in large[1]


def test_an_empty_message_does_not_end_a_stream(workspace):
    async def work(here):
        messages = iter([pb.ModelInferRequest(), request(x=1.0)])
        return [answer async for answer in here.stream()(messages)]

    empty, answered = run(workspace, work)
    assert empty.error_message
    assert answered.infer_response.outputs[0].name == "prediction"


def test_a_key_that_is_revoked_ends_the_stream_that_it_opened(workspace):
    keys = Keys()
    key = keys.make(Role.PREDICTOR)

    async def work(here):
        revoked = asyncio.Event()

        async def messages():
            yield request(x=1.0)
            await revoked.wait()
            yield request(x=2.0)

        stream = here.stream()(messages(), metadata=(("x-api-key", key),))
        first = await stream.read()
        (record,) = keys.keys()
        keys.keep(replace(record, revoked_at=dt.datetime.now(dt.UTC)))
        here.ring.refresh()
        revoked.set()
        return first, await failed(stream.read())

    first, (code, details) = run(workspace, work, keys=keys)
    assert first.infer_response.outputs[0].name == "prediction"
    assert code == "UNAUTHENTICATED"
    assert "revoked" in details


def test_streams_that_wait_take_no_place_of_a_request_and_are_bounded_themselves(workspace):
    async def work(here):
        def opened():
            return here.stream()(never())

        streams = [opened(), opened()]
        await until(lambda: len(here.under_way._pauses) == 2)
        answered = await here.unary("ModelInfer")(request(x=1.0))
        refused = await failed(opened().read())
        for stream in streams:
            stream.cancel()
        await until(lambda: not here.under_way._pauses)
        again = await here.stream()(iter([request(x=1.0)])).read()
        return answered, refused, again

    answered, (code, details), again = run(workspace, work, limits=Limits(requests=2))
    assert answered.outputs[0].name == again.infer_response.outputs[0].name == "prediction"
    assert (code, details) == ("RESOURCE_EXHAUSTED", "too many streams are open; try again in a second")


def test_a_stream_that_waits_ends_after_long_and_when_the_server_does(workspace, monkeypatch):
    monkeypatch.setattr(under_way, "_SWEEP_S", 0.02)

    async def work(here):
        monkeypatch.setattr(service, "STREAM_IDLE_S", 0.05)
        idle = await failed(here.stream()(never()).read())
        monkeypatch.undo()
        stream = asyncio.ensure_future(failed(here.stream()(never()).read()))
        await until(lambda: here.under_way._pauses)
        here.under_way.close()
        return idle, await stream, await failed(here.stream()(never()).read())

    idle, ended, late = run(workspace, work)
    assert idle == ("DEADLINE_EXCEEDED", "nothing came through this stream for long; open another")
    assert ended == late == ("UNAVAILABLE", "the server ends; open a stream to another")


def test_whether_the_server_is_well_is_told_however_much_it_does(workspace):
    async def work(here):
        slow = asyncio.ensure_future(failed(raw(here)(never())))
        await until(lambda: len(here.under_way) == 1)
        refused = await failed(here.unary("ModelInfer")(request(x=1.0)))
        live = await here.unary("ServerLive")(pb.ServerLiveRequest())
        ready = await here.unary("ServerReady")(pb.ServerReadyRequest())
        here.under_way.give_up()
        return refused, live, ready, await slow

    refused, live, ready, ended = run(workspace, work, limits=Limits(requests=1))
    assert refused == ("RESOURCE_EXHAUSTED", "too many requests are under way; try again in a second")
    assert (live.live, ready.ready) == (True, True)
    assert ended == ("DEADLINE_EXCEEDED", "the server ends and waited as long as it may; ask again")
