"""A closed loop of gRPC calls from a process of its own; messages are bytes already: the server is what is measured."""

import asyncio
import subprocess
import sys
import time
from typing import Final

import grpc
import msgspec
import uvloop

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """What to call.

    Attributes
    ----------
    port : int
        Where, on the loopback address.
    callers : int
        Calls under way at once.
    channels : int
        Connections they share.
    seconds, warmup_s : float
        How long, and how long before that without counting.
    message : bytes
        The request.
    key : str
        API key; empty for none.
    """

    port: int
    callers: int
    seconds: float
    message: bytes
    channels: int = 4
    warmup_s: float = 1.0
    key: str = ""


def run(calls: Calls) -> float:
    """Good answers per second."""
    command = [sys.executable, "-m", "benchmarks.grpc_load"]
    done = subprocess.run(command, input=msgspec.msgpack.encode(calls), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return float(done.stdout)


async def _call(calls: Calls) -> float:
    metadata = (("x-api-key", calls.key),) if calls.key else None
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{calls.port}", options=(("grpc.use_local_subchannel_pool", 1),))
        for _ in range(calls.channels)
    ]
    stubs = [channel.unary_unary(METHOD) for channel in channels]
    counting, answers = False, 0

    async def caller(number: int) -> None:
        nonlocal answers
        while True:
            await stubs[number % len(stubs)](calls.message, metadata=metadata)
            answers += counting

    callers = [asyncio.create_task(caller(number)) for number in range(calls.callers)]
    await asyncio.sleep(calls.warmup_s)
    started, counting = time.perf_counter(), True
    done, _ = await asyncio.wait(callers, timeout=calls.seconds, return_when=asyncio.FIRST_EXCEPTION)
    taken_s = time.perf_counter() - started
    for one in done:
        one.result()
    for one in callers:
        one.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return answers / taken_s


def main() -> None:
    """Read the calls from standard input, make them, write how many were answered per second."""
    calls = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Calls)
    sys.stdout.write(str(uvloop.run(_call(calls))))


if __name__ == "__main__":
    main()
