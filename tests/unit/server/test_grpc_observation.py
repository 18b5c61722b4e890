"""What is seen of gRPC calls: ids, lines in the access log, spans and metrics, as of requests over REST."""

import asyncio
import socket
import time

import grpc
import numpy as np
import pytest
from grpc_world import run
from sklearn.linear_model import Ridge
from stack_world import Keys

from shoal.fleet import Fleet
from shoal.security.permissions import Role
from shoal.server.certificates import Certificates
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.options import TlsFiles
from shoal.telemetry.traces import Tracer
from shoal.workspace import open_workspace
from tests.certificates import key, pem
from tests.collectors import facts

X = np.random.default_rng(3).normal(size=(20, 1))
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def workspace(tmp_path):
    with open_workspace(tmp_path / "home") as workspace:
        pumps = Fleet.from_estimators(
            keys=[], models={(): Ridge().fit(X, X[:, 0])}, features=["x"], task="regression", name="pumps"
        )
        workspace.promote("pumps", workspace.register(pumps).version)
        yield workspace


def request(rows=1, model="pumps", **more):
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP64", shape=[rows])
    tensor.contents.fp64_contents.extend([0.5] * rows)
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], **more)


async def call(here, name, message, **metadata):
    """Ask; the status and the trailing metadata."""
    asked = here.unary(name)(message, timeout=20, metadata=tuple((n.replace("_", "-"), v) for n, v in metadata.items()))
    try:
        await asked
    except grpc.aio.AioRpcError as error:
        return error.code(), dict(error.trailing_metadata())
    return await asked.code(), dict(await asked.trailing_metadata())


def test_an_id_is_taken_or_made_and_returned_whatever_happens(workspace):
    async def work(here):
        given = [
            await call(here, "ModelInfer", request(), x_request_id="mine:1"),
            await call(here, "ModelInfer", request(model="nobody"), x_request_id="mine:2"),
            await call(here, "ServerLive", pb.ServerLiveRequest(), x_request_id="mine:3"),
        ]
        made = [await call(here, "ModelInfer", request(), **more) for more in ({}, {"x_request_id": "no good {}"}, {})]
        stream = here.stream()(iter([request(), request()]), timeout=20, metadata=(("x-request-id", "mine:4"),))
        assert len([answer async for answer in stream]) == 2
        return given, made, dict(await stream.trailing_metadata())

    given, made, stream = run(workspace, work)
    assert [(code.name, told["x-request-id"]) for code, told in given] == [
        ("OK", "mine:1"),
        ("NOT_FOUND", "mine:2"),
        ("OK", "mine:3"),
    ]
    ids = [told["x-request-id"] for _, told in made]
    assert len(set(ids)) == 3
    assert len({one.partition("-")[0] for one in ids}) == 1
    assert stream["x-request-id"] == "mine:4"


def test_every_call_has_a_line_when_all_are_logged(workspace):
    keys = Keys()
    own = keys.make(Role.PREDICTOR)

    async def work(here):
        await call(here, "ModelInfer", request(3), x_api_key=own, x_request_id="one")
        await call(here, "ModelInfer", request(model="nobody"), x_api_key=own)
        await call(here, "RepositoryIndex", pb.RepositoryIndexRequest(), x_api_key=own)
        await call(here, "ModelInfer", request())
        await call(here, "ServerLive", pb.ServerLiveRequest())
        stream = here.stream()(iter([request(2), request(model="nobody"), request(4)]), metadata=(("x-api-key", own),))
        assert len([answer async for answer in stream]) == 3
        return here.lines()

    lines = run(workspace, work, keys=keys, access_log=1.0)
    first = lines[0]
    assert set(first) == {
        "time", "level", "logger", "request_id", "method", "path", "status", "code", "seconds", "principal", "fleet",
        "rows", "client",
    }  # fmt: skip
    path = "/inference.GRPCInferenceService/"
    assert first["path"] == f"{path}ModelInfer"
    assert (first["logger"], first["level"], first["method"]) == ("shoal.access", "info", "POST")
    assert (first["request_id"], first["client"]) == ("one", "127.0.0.1")
    assert 0 < first["seconds"] < 20
    seen = [(line["path"].removeprefix(path), line["status"], line["code"]) for line in lines]
    assert seen == [
        ("ModelInfer", 200, "OK"),
        ("ModelInfer", 404, "NOT_FOUND"),
        ("RepositoryIndex", 403, "PERMISSION_DENIED"),
        ("ModelInfer", 401, "UNAUTHENTICATED"),
        ("ServerLive", 200, "OK"),
        ("ModelStreamInfer", 200, "OK"),
    ]
    assert [line["principal"] for line in lines] == [*["the predictor"] * 3, None, None, "the predictor"]
    assert [line["fleet"] for line in lines] == ["pumps", None, None, None, None, "pumps"]
    assert [line["rows"] for line in lines] == [3, None, None, None, None, 6]


def test_of_no_share_only_what_fails_on_our_side_is_logged_and_the_caller_learns_the_id(workspace, monkeypatch, caplog):
    async def work(here):
        await call(here, "ModelInfer", request())
        await call(here, "ModelInfer", request(model="nobody"))

        def broken():
            raise RuntimeError("a secret")

        monkeypatch.setattr(here.plane, "server_metadata", broken)
        try:
            await here.unary("ServerMetadata")(pb.ServerMetadataRequest(), metadata=(("x-request-id", "broken:1"),))
        except grpc.aio.AioRpcError as error:
            return error, here.lines()

    error, lines = run(workspace, work)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "broken:1" in error.details()
    assert "secret" not in error.details()
    assert [(line["request_id"], line["status"], line["code"], line["level"]) for line in lines] == [
        ("broken:1", 500, "INTERNAL", "error")
    ]
    assert caplog.messages == ["request broken:1 failed"]


def test_a_call_that_its_caller_gives_up_is_seen(workspace, monkeypatch):
    async def work(here):
        entered = asyncio.Event()

        async def slow(*_):
            entered.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(here.plane, "infer", slow)
        begins = (lambda: here.unary("ModelInfer")(request()), lambda: here.stream()(iter([request()])))
        for seen, begin in enumerate(begins, 1):
            asked = begin()
            await entered.wait()
            entered.clear()
            asked.cancel()
            assert await asked.code() is grpc.StatusCode.CANCELLED
            until = time.monotonic() + 20
            while here.samples().count('_count{code="CANCELLED"') < seen:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
        return here.lines()

    lines = run(workspace, work, access_log=1.0)
    assert [(line["path"].rpartition("/")[2], line["status"], line["code"]) for line in lines] == [
        ("ModelInfer", 499, "CANCELLED"),
        ("ModelStreamInfer", 499, "CANCELLED"),
    ]


def test_a_call_continues_its_callers_trace(workspace, collector):
    endpoint, taken = collector
    tracer = Tracer(endpoint)

    async def work(here):
        await call(here, "ModelInfer", request(3), traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id="one")
        await call(here, "ModelInfer", request(model="nobody"), traceparent="nonsense")
        stream = here.stream()(iter([request(2), request(2)]), metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
        assert len([answer async for answer in stream]) == 2

    run(workspace, work, tracer=tracer)
    tracer.close()
    first, second, third = taken
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert first.name == "inference.GRPCInferenceService/ModelInfer"
    assert facts(first) == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "shoal.request_id": "one",
        "shoal.fleet": "pumps",
        "shoal.rows": 3,
    }
    assert 0 < first.end_time_unix_nano - first.start_time_unix_nano < 20e9
    assert second.parent_span_id == b""
    assert facts(second)["rpc.response.status_code"] == "NOT_FOUND"
    assert (third.trace_id.hex(), third.name.rpartition("/")[2]) == (TRACE, "ModelStreamInfer")
    assert facts(third)["shoal.rows"] == 4


def test_streams_are_counted_as_calls(workspace):
    async def work(here):
        stream = here.stream()(iter([request()]))
        assert len([answer async for answer in stream]) == 1
        await stream.code()
        return here.samples()

    counted = 'shoal_call_seconds_count{code="OK",fleet="pumps",method="ModelStreamInfer"} 1.0'
    assert counted in run(workspace, work)


def test_who_does_not_finish_the_handshake_is_hung_up_on(workspace):
    certificates = Certificates(TlsFiles(certificate=str(pem("server")), key=str(key("server"))))

    async def work(here):
        slow = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(20)]
        for one in slow[::2]:
            one.send(b"\x16\x03\x01")
        assert (await call(here, "ModelInfer", request()))[0] is grpc.StatusCode.OK
        for one in slow:
            one.settimeout(30)  # gRPC itself would wait for two minutes
            assert await asyncio.to_thread(one.recv, 100) == b""
            one.close()

    # The call has to have shaken hands by then, however busy the machine is.
    run(workspace, work, certificates=certificates, handshake_s=4.0)
