"""The calls of ``GRPCInferenceService``, each asked of the data plane."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
import msgspec
from google.protobuf.message import Message

from shoal.errors import InvalidInput, ShoalError, Unavailable
from shoal.security.permissions import Permission
from shoal.server.errors import told
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.grpc.codes import code_of
from shoal.server.grpc.translation import metadata_of, request_of, response_of, statistics_of
from shoal.server.parameters import sooner
from shoal.serving.messages import RequestContext
from shoal.serving.plane import DataPlane

SERVICE: Final = "inference.GRPCInferenceService"

Call: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Unary: TypeAlias = "Callable[[Any, RequestContext], Awaitable[Message]]"


class Gate(Protocol):
    """What stands before every call: who asks, and whether they may."""

    def admit(self, metadata: Mapping[str, str], permission: Permission | None) -> RequestContext:
        """Let a caller in, or raise one of our errors.

        Parameters
        ----------
        metadata : mapping of str to str
            What the call carries beside its message, names in lower case.
        permission : Permission or None
            What the caller needs; None where anybody may ask.
        """

    def observe(self, method: str, code: str, fleet: str | None, started_ns: int) -> None:
        """Count a call that has ended; ``fleet`` is one that is really served."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A call of the service.

    Attributes
    ----------
    request : type
        Its message.
    response : type
        Its answer's.
    permission : Permission or None
        What the caller needs; None where anybody may ask.
    run : callable
        From message and context to the answer.
    """

    request: type[Message]
    response: type[Message]
    permission: Permission | None
    run: Unary


class InferenceService:
    """The service over a data plane.

    Parameters
    ----------
    plane : DataPlane
        What answers.
    gate : Gate
        What stands before it.
    """

    def __init__(self, plane: DataPlane, gate: Gate) -> None:
        self._plane = plane
        self._gate = gate
        predict, read, operate = Permission.PREDICT, Permission.READ, Permission.OPERATE
        self.methods: Mapping[str, Method] = {
            "ServerLive": _method(pb.ServerLiveRequest, pb.ServerLiveResponse, None, self._server_live),
            "ServerReady": _method(pb.ServerReadyRequest, pb.ServerReadyResponse, None, self._server_ready),
            "ServerMetadata": _method(
                pb.ServerMetadataRequest, pb.ServerMetadataResponse, predict, self._server_metadata
            ),
            "ModelReady": _method(pb.ModelReadyRequest, pb.ModelReadyResponse, predict, self._model_ready),
            "ModelMetadata": _method(pb.ModelMetadataRequest, pb.ModelMetadataResponse, predict, self._model_metadata),
            "ModelInfer": _method(pb.ModelInferRequest, pb.ModelInferResponse, predict, self._infer),
            "ModelStatistics": _method(pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, read, self._statistics),
            "RepositoryIndex": _method(pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, read, self._index),
            "RepositoryModelLoad": _method(
                pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse, operate, self._load
            ),
            "RepositoryModelUnload": _method(
                pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse, operate, self._unload
            ),
        }

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """All calls as gRPC's server takes them."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(name, method),
                request_deserializer=method.request.FromString,
                response_serializer=method.response.SerializeToString,
            )
            for name, method in self.methods.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=pb.ModelInferRequest.FromString,
            response_serializer=pb.ModelStreamInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _unary(self, name: str, method: Method) -> Callable[[Message, Call], Awaitable[Message]]:
        async def call(message: Message, call: Call) -> Message:
            started_ns = time.perf_counter_ns()
            answer, error = await self._tried(method, message, call)
            code = grpc.StatusCode.OK if error is None else code_of(error)
            self._gate.observe(name, code.name, self._fleet_of(message), started_ns)
            if error is not None:
                await self._refuse(call, error)
            assert answer is not None
            return answer

        return call

    async def _tried(
        self, method: Method, message: Message, call: Call
    ) -> tuple[Message, None] | tuple[None, Exception]:
        try:
            return await method.run(message, self._admitted(call, method.permission)), None
        except Exception as error:  # noqa: BLE001 - the door is where errors end
            return None, error

    def _admitted(self, call: Call, permission: Permission | None) -> RequestContext:
        metadata = {name: value for name, value in call.invocation_metadata() or () if isinstance(value, str)}
        context = self._gate.admit(metadata, permission)
        remaining_s = cast("float | None", call.time_remaining())  # None without a deadline, whatever its stub says
        if remaining_s is None:
            return context
        deadline_s = time.monotonic() + remaining_s
        if context.deadline_s is not None:
            deadline_s = min(deadline_s, context.deadline_s)
        return RequestContext(request_id=context.request_id, principal=context.principal, deadline_s=deadline_s)

    def _fleet_of(self, message: Message) -> str | None:
        name = getattr(message, "model_name", "").partition(":")[0]
        return name if name and self._plane.serves(name) else None

    async def _refuse(self, call: Call, error: Exception) -> None:
        """End a call by an error as the caller may see it."""
        shown = told(error, _request_id(call))
        if isinstance(shown, Unavailable):
            call.set_trailing_metadata((("retry-after", f"{shown.retry_after_s:g}"),))
        await call.abort(code_of(shown), str(shown))

    async def _stream(
        self, messages: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer the requests of a stream one after the other; an error is an answer and does not end the stream."""
        try:
            context = self._admitted(call, Permission.PREDICT)
        except ShoalError as error:
            await self._refuse(call, error)
        async for message in messages:
            try:
                yield pb.ModelStreamInferResponse(infer_response=await self._infer(message, context))
            except Exception as error:  # noqa: BLE001 - the door is where errors end
                # Clients match answers to requests by the id, also where there is nothing else to tell.
                empty = pb.ModelInferResponse(id=message.id)
                shown = told(error, _request_id(call))
                yield pb.ModelStreamInferResponse(error_message=str(shown), infer_response=empty)

    async def _server_live(self, _message: pb.ServerLiveRequest, _context: RequestContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._plane.live())

    async def _server_ready(self, _message: pb.ServerReadyRequest, _context: RequestContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._plane.ready())

    async def _server_metadata(
        self, _message: pb.ServerMetadataRequest, _context: RequestContext
    ) -> pb.ServerMetadataResponse:
        metadata = self._plane.server_metadata()
        return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version, extensions=metadata.extensions)

    async def _model_ready(self, message: pb.ModelReadyRequest, _context: RequestContext) -> pb.ModelReadyResponse:
        version = await self._opened(message.name, message.version)
        return pb.ModelReadyResponse(ready=self._plane.model_ready(message.name, version))

    async def _model_metadata(
        self, message: pb.ModelMetadataRequest, _context: RequestContext
    ) -> pb.ModelMetadataResponse:
        version = await self._opened(message.name, message.version)
        return metadata_of(self._plane.model_metadata(message.name, version))

    async def _infer(self, message: pb.ModelInferRequest, context: RequestContext) -> pb.ModelInferResponse:
        request = request_of(message)
        if request.parameters:
            deadline_s = sooner(context.deadline_s, request.parameters)
            context = msgspec.structs.replace(context, deadline_s=deadline_s)
        return response_of(await self._plane.infer(request, context))

    async def _statistics(
        self, message: pb.ModelStatisticsRequest, _context: RequestContext
    ) -> pb.ModelStatisticsResponse:
        version = await self._opened(message.name, message.version)
        return statistics_of(self._plane.statistics(message.name or None, version))

    async def _opened(self, model: str, version: str) -> str | None:
        """The version that a message names; one that is not served by default is opened first."""
        if not version:
            return None
        await self._plane.open(model, version)
        return version

    async def _index(self, message: pb.RepositoryIndexRequest, _context: RequestContext) -> pb.RepositoryIndexResponse:
        entries = self._plane.index(ready=True if message.ready else None)
        kind = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[kind(name=one.name, version=one.version, state=one.state, reason=one.reason) for one in entries]
        )

    async def _load(
        self, message: pb.RepositoryModelLoadRequest, context: RequestContext
    ) -> pb.RepositoryModelLoadResponse:
        if message.parameters:
            raise InvalidInput(
                f"parameters {sorted(message.parameters)} are not taken: models come from the registry, and nothing "
                "can be uploaded here; register a snapshot and promote it"
            )
        await self._plane.load(message.model_name, actor=context.principal)
        return pb.RepositoryModelLoadResponse()

    async def _unload(
        self, message: pb.RepositoryModelUnloadRequest, context: RequestContext
    ) -> pb.RepositoryModelUnloadResponse:
        await self._plane.unload(message.model_name, actor=context.principal)
        return pb.RepositoryModelUnloadResponse()


def _method(request: type[Message], response: type[Message], permission: Permission | None, run: Unary) -> Method:
    return Method(request=request, response=response, permission=permission, run=run)


def _request_id(call: Call) -> str:
    return next((str(value) for name, value in call.invocation_metadata() or () if name == "x-request-id"), "")
