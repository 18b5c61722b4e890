"""The calls of ``GRPCInferenceService``, each asked of the data plane."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc
import msgspec
from google.protobuf.message import DecodeError, Message

from shoal.errors import InvalidInput, ShoalError, Unavailable
from shoal.server.calls import REQUEST_ID, SERVICE, CallGate, Visit
from shoal.server.errors import status_of, told
from shoal.server.grpc import inference_pb2 as pb
from shoal.server.grpc.codes import code_of
from shoal.server.grpc.translation import metadata_of, request_of, response_of, rows_of, statistics_of
from shoal.server.limits import Traffic
from shoal.server.parameters import sooner
from shoal.server.under_way import Turn
from shoal.serving.messages import RequestContext
from shoal.serving.plane import DataPlane

_HUNG_UP: Final = (grpc.StatusCode.CANCELLED, 499)
_STREAM: Final = "ModelStreamInfer"

#: How long a stream may wait for its next request, in seconds.
STREAM_IDLE_S: Final = 600.0

Call: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Sent = TypeVar("Sent", bound=Message)
Unary: TypeAlias = "Callable[[Any, RequestContext], Awaitable[Message]]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A call of the service.

    Attributes
    ----------
    request : type
        Its message.
    response : type
        Its answer's.
    run : callable
        From message and context to the answer.
    """

    request: type[Message]
    response: type[Message]
    run: Unary


class InferenceService:
    """The service over a data plane.

    Parameters
    ----------
    plane : DataPlane
        What answers.
    gate : CallGate
        What stands before it.
    traffic : Traffic
        Whether traffic is wanted.
    """

    def __init__(self, plane: DataPlane, gate: CallGate, traffic: Traffic) -> None:
        self._plane = plane
        self._gate = gate
        self._traffic = traffic
        self.methods: Mapping[str, Method] = {
            "ServerLive": _method(pb.ServerLiveRequest, pb.ServerLiveResponse, self._server_live),
            "ServerReady": _method(pb.ServerReadyRequest, pb.ServerReadyResponse, self._server_ready),
            "ServerMetadata": _method(pb.ServerMetadataRequest, pb.ServerMetadataResponse, self._server_metadata),
            "ModelReady": _method(pb.ModelReadyRequest, pb.ModelReadyResponse, self._model_ready),
            "ModelMetadata": _method(pb.ModelMetadataRequest, pb.ModelMetadataResponse, self._model_metadata),
            "ModelInfer": _method(pb.ModelInferRequest, pb.ModelInferResponse, self._infer),
            "ModelStatistics": _method(pb.ModelStatisticsRequest, pb.ModelStatisticsResponse, self._statistics),
            "RepositoryIndex": _method(pb.RepositoryIndexRequest, pb.RepositoryIndexResponse, self._index),
            "RepositoryModelLoad": _method(pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse, self._load),
            "RepositoryModelUnload": _method(
                pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse, self._unload
            ),
        }

    def handler(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """All calls as gRPC's server takes them."""
        handlers = {
            name: grpc.stream_unary_rpc_method_handler(
                self._unary(name, method), response_serializer=method.response.SerializeToString
            )
            for name, method in self.methods.items()
        }
        handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            response_serializer=pb.ModelStreamInferResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _unary(self, name: str, method: Method) -> Callable[[object, Call], Awaitable[Message]]:
        """A call that takes one message, and does not read it before its caller is let in.

        To gRPC's server it is one with a stream of messages, the only kind that is called before anything is read;
        what is sent is the same.
        """

        async def call(_messages: object, call: Call) -> Message:
            visit = self._entered(name, call)
            (code, status), answer, error = _HUNG_UP, None, None
            try:
                answer, error = await self._tried(method, call, visit)
                code, status = _ended(error)
                visit.rows = rows_of(answer)
            finally:
                self._gate.leave(visit, code.name, status, call.peer)
            if error is not None:
                await self._refuse(call, visit, error)
            assert answer is not None
            return answer

        return call

    def _entered(self, name: str, call: Call) -> Visit:
        """A call that has just come; its id goes back with whatever becomes of it."""
        metadata = {name: value for name, value in call.invocation_metadata() or () if isinstance(value, str)}
        visit = self._gate.enter(name, metadata)
        call.set_trailing_metadata(((REQUEST_ID, visit.request_id),))
        return visit

    async def _tried(self, method: Method, call: Call, visit: Visit) -> tuple[Message, None] | tuple[None, Exception]:
        try:
            self._gate.admit(visit)
            context = self._gate.context(visit, _remaining_s(call))
            with self._gate.turn(visit, context) as turn:
                raw = await _read(call, turn)
                if raw is None:
                    raise InvalidInput("the call ended without a message")
                with self._gate.hold(len(raw)):
                    message = _parsed(method.request, raw)
                    visit.fleet = self._fleet_of(message)
                    running = method.run(message, context)
                    del raw, message  # large ones are not kept while their answer is waited for
                    return await running, None
        except Exception as error:  # noqa: BLE001 - the door is where errors end
            return None, error

    async def _refuse(self, call: Call, visit: Visit, error: Exception) -> None:
        """End a call by an error as the caller may see it."""
        shown = told(error, visit.request_id)
        if isinstance(shown, Unavailable) and shown.retry_after_s is not None:
            retry = ("retry-after", f"{shown.retry_after_s:g}")
            call.set_trailing_metadata(((REQUEST_ID, visit.request_id), retry))
        await call.abort(code_of(shown), str(shown))

    def _fleet_of(self, message: Message) -> str | None:
        name = getattr(message, "model_name", "").partition(":")[0]
        return name if name and self._plane.serves(name) else None

    async def _stream(self, _messages: object, call: Call) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer the requests of a stream one after the other; an error is an answer and does not end the stream."""
        visit = self._entered(_STREAM, call)
        (code, status), refusal = _HUNG_UP, None
        try:
            self._gate.admit(visit)
            while (raw := await self._next(call)) is not None:
                self._gate.admit(visit)  # its key may have been revoked since
                yield await self._streamed(raw, call, visit)
            code, status = _ended(None)
        except ShoalError as error:
            refusal, (code, status) = error, _ended(error)
        finally:
            self._gate.leave(visit, code.name, status, call.peer)
        if refusal is not None:
            await self._refuse(call, visit, refusal)

    async def _next(self, call: Call) -> bytes | None:
        """The next message of a stream; None at its end."""
        with self._gate.pause(STREAM_IDLE_S) as pause:
            return await _read(call, pause)

    async def _streamed(self, raw: bytes, call: Call, visit: Visit) -> pb.ModelStreamInferResponse:
        message = pb.ModelInferRequest()
        try:
            context = self._gate.context(visit, _remaining_s(call))
            with self._gate.turn(visit, context), self._gate.hold(len(raw)):
                message = _parsed(pb.ModelInferRequest, raw)
                visit.fleet = visit.fleet or self._fleet_of(message)
                answer = await self._infer(message, context)
        except Exception as error:  # noqa: BLE001 - the door is where errors end
            # Clients match answers to requests by the id, also where there is nothing else to tell.
            empty = pb.ModelInferResponse(id=message.id)
            shown = told(error, visit.request_id)
            return pb.ModelStreamInferResponse(error_message=str(shown), infer_response=empty)
        visit.rows = (visit.rows or 0) + (rows_of(answer) or 0)
        return pb.ModelStreamInferResponse(infer_response=answer)

    async def _server_live(self, _message: pb.ServerLiveRequest, _context: RequestContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _message: pb.ServerReadyRequest, _context: RequestContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._traffic.open and self._plane.ready())

    async def _server_metadata(
        self, _message: pb.ServerMetadataRequest, _context: RequestContext
    ) -> pb.ServerMetadataResponse:
        metadata = self._plane.server_metadata()
        return pb.ServerMetadataResponse(name=metadata.name, version=metadata.version, extensions=metadata.extensions)

    async def _model_ready(self, message: pb.ModelReadyRequest, _context: RequestContext) -> pb.ModelReadyResponse:
        version = await self._opened(message.name, message.version)
        ready = self._plane.model_ready(message.name, version)
        return pb.ModelReadyResponse(ready=ready and self._traffic.open)

    async def _model_metadata(
        self, message: pb.ModelMetadataRequest, _context: RequestContext
    ) -> pb.ModelMetadataResponse:
        version = await self._opened(message.name, message.version)
        return metadata_of(self._plane.model_metadata(message.name, version))

    async def _infer(self, message: pb.ModelInferRequest, context: RequestContext) -> pb.ModelInferResponse:
        request = request_of(message)
        del message
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


async def _read(call: Call, turn: Turn) -> bytes | None:
    """The next message of a call as it came; None at its end."""
    turn.reading_since_s = time.monotonic()
    try:
        raw = await call.read()
    finally:
        turn.reading_since_s = None
    return raw if isinstance(raw, bytes) else None


def _parsed(kind: type[Sent], raw: bytes) -> Sent:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {kind.DESCRIPTOR.name}: {error}") from error


def _method(request: type[Message], response: type[Message], run: Unary) -> Method:
    return Method(request=request, response=response, run=run)


def _remaining_s(call: Call) -> float | None:
    """How long gRPC lets a call take; None without a deadline, whatever its stub says."""
    return cast("float | None", call.time_remaining())


def _ended(error: Exception | None) -> tuple[grpc.StatusCode, int]:
    """The status of a call that was answered, and the one that it would have over HTTP."""
    return (grpc.StatusCode.OK, 200) if error is None else (code_of(error), status_of(error))
