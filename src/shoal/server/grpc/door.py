"""The gRPC server of one process."""

from typing import Final, Self

import grpc

from shoal.server.grpc.service import Gate, InferenceService
from shoal.serving.plane import DataPlane

_OPTIONS: Final = (
    # Workers share the port; the kernel spreads connections over them.
    ("grpc.so_reuseport", 1),
    # Connections that ping without pause, or do nothing for ever, do not stay.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_connection_idle_ms", 600_000),
)


class GrpcDoor:
    """A listening gRPC server; :meth:`start` makes one."""

    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    @classmethod
    async def start(
        cls, plane: DataPlane, gate: Gate, *, address: str, port: int, body_bytes: int, concurrent: int | None = None
    ) -> Self:
        """Listen.

        Parameters
        ----------
        plane : DataPlane
            What answers.
        gate : Gate
            What stands before it.
        address : str
            Address to listen on, e.g. ``127.0.0.1``.
        port : int
            0: any free one.
        body_bytes : int
            Bytes of one message; larger ones are refused before they are read.
        concurrent : int, optional
            Calls at the same time; more are refused at once.
        """
        sizes = (("grpc.max_receive_message_length", body_bytes), ("grpc.max_send_message_length", -1))
        server = grpc.aio.server(options=(*_OPTIONS, *sizes), maximum_concurrent_rpcs=concurrent)
        server.add_generic_rpc_handlers((InferenceService(plane, gate).handler(),))
        host = f"[{address}]" if ":" in address else address
        bound = server.add_insecure_port(f"{host}:{port}")
        await server.start()
        return cls(server, bound)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and give those under way some seconds to end."""
        await self._server.stop(grace_s)
