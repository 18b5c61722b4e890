"""A door over gRPC behind the real gate, on a real socket."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from stack_world import Keys

from shoal.server.authentication import KeyRing
from shoal.server.calls import SERVICE, CallGate
from shoal.server.certificates import Certificates
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.grpc.door import GrpcDoor
from shoal.server.grpc.service import InferenceService
from shoal.server.limits import Traffic
from shoal.server.observation import AccessLog
from shoal.server.options import Limits
from shoal.server.under_way import UnderWay
from shoal.telemetry.logs import LineWriter
from shoal.telemetry.metrics import Metrics, exposition, merge
from shoal.telemetry.traces import Tracer
from shoal.workspace import Workspace
from tests.certificates import pem

BODY_BYTES = 1 << 20
SLOW_S = 60
LOOKED_UP = {"lookup": {"source": "remote", "keys": ["id"], "features": ["x"], "timeout_ms": 1000 * SLOW_S}}


@dataclass
class World:
    channel: grpc.aio.Channel
    service: InferenceService
    plane: object
    port: int
    log: LineWriter
    logged: int
    metrics: Metrics
    traffic: Traffic
    under_way: UnderWay
    ring: KeyRing

    def unary(self, name: str):
        method = self.service.methods[name]
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def stream(self):
        return self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )

    def samples(self) -> str:
        return exposition(merge([self.metrics.dump()]))[0].decode()

    def lines(self) -> list[dict[str, object]]:
        """What has been logged since the last time, once it is written."""
        self.log.close(20)
        return [json.loads(line) for line in os.read(self.logged, 2**16).splitlines()]


@asynccontextmanager
async def serving(
    workspace: Workspace,
    fleets: tuple[str, ...] = ("ridges", "labels"),
    *,
    keys: Keys | None = None,
    access_log: float = 0.0,
    tracer: Tracer | None = None,
    certificates: Certificates | None = None,
    handshake_s: float = 10.0,
    limits: Limits | None = None,
) -> AsyncIterator[World]:
    """A door over some fleets of a workspace, and a channel to it."""
    plane = workspace.data_plane(list(fleets))
    await plane.start()
    ring = KeyRing(keys or Keys(), local=True)
    ring.refresh()
    reading, writing = os.pipe()
    log, metrics = LineWriter(writing), Metrics()
    traffic, under_way = Traffic(), UnderWay(limits or Limits())
    traffic.open = True
    sweep = asyncio.create_task(under_way.sweep())
    gate = CallGate(ring, under_way, metrics, AccessLog(log, access_log), tracer)
    door = await GrpcDoor.start(
        plane,
        gate,
        traffic,
        address="127.0.0.1",
        port=0,
        body_bytes=BODY_BYTES,
        certificates=certificates,
        handshake_s=handshake_s,
    )
    address = f"127.0.0.1:{door.port}"
    if certificates is None:
        channel = grpc.aio.insecure_channel(address)
    else:
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(pem("ca").read_bytes()))
    try:
        async with channel:
            service = InferenceService(plane, gate, traffic)
            yield World(channel, service, plane, door.port, log, reading, metrics, traffic, under_way, ring)
    finally:
        sweep.cancel()
        await door.stop(1.0)
        await plane.drain(1.0)
        await asyncio.to_thread(log.close, 20)
        for end in (reading, writing):
            os.close(end)


def run(workspace, work, **more):
    """What a coroutine makes of a door over ``pumps``."""

    async def whole():
        async with serving(workspace, ("pumps",), **more) as here:
            return await work(here)

    return asyncio.run(whole())


def request(*, padding_bytes=0, **inputs):
    """One row for ``pumps`` by its id; without ``x`` it is looked up, where there is a lookup."""
    message = pb.ModelInferRequest(model_name="pumps")
    message.inputs.add(name="id", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    for name, value in inputs.items():
        message.inputs.add(name=name, datatype="FP64", shape=[1]).contents.fp64_contents.append(value)
    if padding_bytes:
        message.parameters["padding"].string_param = "a" * padding_bytes
    return message
