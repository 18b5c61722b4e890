"""The open inference protocol over REST: a thin door before the data plane, in plain ASGI.

A request that comes here has passed the middlewares of :mod:`shoal.server.stack`: its route and its caller are known.
What is raised here they answer.
"""

import asyncio
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidInput, NotFound
from shoal.server.bodies import packed, read_body
from shoal.server.decoding import decode
from shoal.server.errors import WrongContent
from shoal.server.invocations import CSV_KIND, chosen_fleet, invocation_request, keys_said, predictions
from shoal.server.large import large_request
from shoal.server.options import Limits
from shoal.server.outgoing import OUTGOING, Outgoing
from shoal.server.parameters import sooner
from shoal.server.pieces import LARGE_BYTES
from shoal.server.predictions import accept, prefers_later
from shoal.server.routing import Answer, Handler, Headers, Target, Targets
from shoal.server.statistics import statistics_document
from shoal.server.wire import Form, encode, read_raw, read_request, write_response
from shoal.serving.deferred import DeferredPredictions
from shoal.serving.messages import InferenceRequest, ModelMetadata, RequestContext
from shoal.serving.plane import DataPlane
from shoal.serving.served import CACHE_AGE

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_REPOSITORY: Final = "/v2/repository/models/{model}"

_JSON_KIND: Final = b"application/json"
_BINARY_KIND: Final = b"application/octet-stream"
_JSON_HEADERS: Final = [(b"content-type", _JSON_KIND)]
_HEADER_LENGTH: Final = b"inference-header-content-length"
_LONGEST_NUMBER: Final = 15
# Anybody may ask for the server's health; names and reasons are for those who may ask its models.
_NOT_READY: Final = "the server is not ready; ask again, or ask the repository's index why each fleet is not served"

Read = TypeVar("Read")


class _IndexRequest(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _RepositoryRequest(msgspec.Struct, frozen=True):
    parameters: dict[str, msgspec.Raw] | None = None


_index_decoder: Final = msgspec.json.Decoder(_IndexRequest)
_repository_decoder: Final = msgspec.json.Decoder(_RepositoryRequest)


class InferenceApp:
    """Answers ``/v2``, ``/invocations`` and ``/ping``.

    Parameters
    ----------
    plane : DataPlane
        What answers.
    deferred : DeferredPredictions, optional
        Takes requests that nobody waits for; without it there are none.
    body_bytes : int
        Largest body of a request, once it is unpacked.

    Attributes
    ----------
    handlers : mapping of (method, template) to callable
        What answers each route of the permission table.
    """

    def __init__(
        self,
        plane: DataPlane,
        *,
        deferred: DeferredPredictions | None = None,
        body_bytes: int = Limits().body_bytes,
    ) -> None:
        self._plane = plane
        self._deferred = deferred
        self._body_bytes = body_bytes
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="shoal-read")
        handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/ping"): self._ready,
            ("POST", "/invocations"): self._invocations,
            ("GET", "/v2"): self._server,
            ("GET", "/v2/"): self._server,
            ("GET", "/v2/health/live"): self._live,
            ("GET", "/v2/health/ready"): self._ready,
            ("GET", "/v2/models/stats"): self._statistics,
            ("POST", "/v2/repository/index"): self._index,
            ("POST", f"{_REPOSITORY}/load"): self._load,
            ("POST", f"{_REPOSITORY}/unload"): self._unload,
        }
        for path in (_MODEL, _VERSION):
            handlers |= {
                ("GET", path): self._metadata,
                ("GET", f"{path}/ready"): self._model_ready,
                ("GET", f"{path}/stats"): self._statistics,
                ("POST", f"{path}/infer"): self._infer,
                ("POST", f"{path}/infer/async"): self._infer_later,
            }
        self.handlers: Mapping[tuple[str, str], Handler] = handlers
        self._targets = Targets(handlers)

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        """Answer a request."""
        target = self._targets.target(scope["shoal.rule"], scope["raw_path"])
        status, body, headers = await target.handler(target, scope, receive)
        outgoing: Outgoing = scope[OUTGOING]
        await outgoing.send_whole(status, headers, body)

    def _later(self, headers: Mapping[bytes, bytes]) -> DeferredPredictions | None:
        """Who takes the request where its caller does not want to wait."""
        return self._deferred if b"prefer" in headers and prefers_later(headers[b"prefer"]) else None

    async def _infer(self, target: Target, scope: Scope, receive: Receive) -> Answer:
        headers: Mapping[bytes, bytes] = scope["shoal.headers"]
        if self._later(headers) is not None:
            return await self._infer_later(target, scope, receive)
        if self._plane.serves(target.fleet):
            scope["shoal.fleet"] = target.fleet
        _require_kind(headers, _JSON_KIND, _BINARY_KIND)
        length = headers.get(_HEADER_LENGTH)
        body = await read_body(receive, headers, self._body_bytes)
        if length is None and len(body) < LARGE_BYTES:
            request, form = read_request(body, None, model=target.model, version=target.version)
        else:
            request, form = await self._read(target, length, body)
        del body  # it would live for as long as the request waits for its turn
        response = await self._plane.infer(request, _context(scope, request))
        scope["shoal.rows"] = response.outputs[0].shape[0] if response.outputs else 0
        body, header_bytes = write_response(response, form)
        accepted = headers.get(b"accept-encoding")
        if accepted is None and header_bytes is None:
            return 200, body, _JSON_HEADERS
        return await _packed(body, header_bytes, accepted)

    async def _infer_later(self, target: Target, scope: Scope, receive: Receive) -> Answer:
        """Keep the request; the form of the answer is not kept, it is going to be JSON."""
        if self._deferred is None:
            raise NotFound("this server takes no requests that nobody waits for; leave out /async")
        headers: Mapping[bytes, bytes] = scope["shoal.headers"]
        if self._plane.serves(target.fleet):
            scope["shoal.fleet"] = target.fleet
        _require_kind(headers, _JSON_KIND, _BINARY_KIND)
        body = await read_body(receive, headers, self._body_bytes)
        length = headers.get(_HEADER_LENGTH)
        request, _ = await self._read(target, length, body)
        return await accept(self._deferred, request, scope)

    async def _read(self, target: Target, length: bytes | None, body: bytes) -> tuple[InferenceRequest, Form]:
        header_bytes = None if length is None else _header_bytes(length, len(body))
        if header_bytes == 0:
            inputs = (await self._described(target.model, target.version)).inputs
            return read_raw(body, inputs, model=target.model, version=target.version)
        size_bytes = header_bytes or len(body)
        read = functools.partial(large_request, most_rows=self._plane.most_rows) if size_bytes >= LARGE_BYTES else None
        work = functools.partial(
            read_request, body, header_bytes, model=target.model, version=target.version, read=read
        )
        return await self._apart(size_bytes, work)

    async def _apart(self, size_bytes: int, work: Callable[[], Read]) -> Read:
        """Read what is large in a thread of its own, one at a time."""
        if size_bytes < LARGE_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def _described(self, model: str, version: str | None) -> ModelMetadata:
        if version is not None:
            await self._plane.open(model, version)
        return self._plane.model_metadata(model, version)

    async def _invocations(self, _target: Target, scope: Scope, receive: Receive) -> Answer:
        headers: Mapping[bytes, bytes] = scope["shoal.headers"]
        kind = _require_kind(headers, _JSON_KIND, CSV_KIND)
        model = chosen_fleet(self._plane, headers, scope["query_string"])
        metadata, said = self._plane.model_metadata(model), keys_said(self._plane, model)
        scope["shoal.fleet"] = model.partition(":")[0]
        body = await read_body(receive, headers, self._body_bytes)
        request = await self._apart(len(body), functools.partial(invocation_request, body, kind, metadata, said))
        del body
        deferred = self._later(headers)
        if deferred is not None:
            return await accept(deferred, request, scope)
        response = await self._plane.infer(request, _context(scope, request))
        found = predictions(response)
        scope["shoal.rows"] = len(found)
        status, body, told = await _packed(encode({"predictions": found}), None, headers.get(b"accept-encoding"))
        age_s = response.parameters.get(CACHE_AGE)  # this form of an answer has no other place for it
        return status, body, [*told, (b"age", b"%d" % age_s)] if isinstance(age_s, float) else told

    async def _live(self, _target: Target, _scope: Scope, _receive: Receive) -> Answer:
        return _document({"live": True, "ready": self._plane.ready()})

    async def _ready(self, _target: Target, _scope: Scope, _receive: Receive) -> Answer:
        ready = self._plane.ready()
        return _health({"live": True, "ready": ready}, ready, _NOT_READY)

    async def _model_ready(self, target: Target, _scope: Scope, _receive: Receive) -> Answer:
        if target.version is not None:
            await self._plane.open(target.model, target.version)
        ready = self._plane.model_ready(target.model, target.version)
        problem = f"{target.model} is not ready: {self._plane.reason(target.model) or 'ask again'}"
        comes_back = self._plane.comes_back(target.model)
        return _health({"name": target.model, "ready": ready}, ready, problem, comes_back=comes_back)

    async def _server(self, _target: Target, _scope: Scope, _receive: Receive) -> Answer:
        return _document(self._plane.server_metadata())

    async def _metadata(self, target: Target, _scope: Scope, _receive: Receive) -> Answer:
        return _document(await self._described(target.model, target.version))

    async def _statistics(self, target: Target, _scope: Scope, _receive: Receive) -> Answer:
        return _document(statistics_document(self._plane.statistics(target.model or None, target.version)))

    async def _index(self, _target: Target, scope: Scope, receive: Receive) -> Answer:
        body = await self._description(scope, receive)
        asked = decode(_index_decoder, body or b"{}")
        return _document(self._plane.index(ready=True if asked.ready else None))

    async def _load(self, target: Target, scope: Scope, receive: Receive) -> Answer:
        body = await self._description(scope, receive)
        parameters = decode(_repository_decoder, body or b"{}").parameters
        if parameters:
            raise InvalidInput(
                f"loading takes no parameters, not even {next(iter(parameters))[:100]!r}: models come from the "
                "registry, and nothing can be uploaded here; register a snapshot and promote it"
            )
        await self._plane.load(target.model, actor=scope["shoal.principal"].name)
        return _document({})

    async def _unload(self, target: Target, scope: Scope, receive: Receive) -> Answer:
        await self._description(scope, receive)  # there is nothing to choose: a fleet has no dependents
        await self._plane.unload(target.model, actor=scope["shoal.principal"].name)
        return _document({})

    async def _description(self, scope: Scope, receive: Receive) -> bytes:
        headers: Mapping[bytes, bytes] = scope["shoal.headers"]
        _require_kind(headers, _JSON_KIND, _BINARY_KIND)
        return await read_body(receive, headers, self._body_bytes)


def _document(value: object) -> Answer:
    return 200, encode(value), _JSON_HEADERS


def _health(document: dict[str, object], good: bool, problem: str, *, comes_back: bool = True) -> Answer:
    """Status 200, or 503 with the reason beside what was asked, and when to ask again where that helps."""
    if good:
        return _document(document)
    headers = [*_JSON_HEADERS, (b"retry-after", b"1")] if comes_back else _JSON_HEADERS
    return 503, encode({**document, "error": problem}), headers


async def _packed(body: bytes, header_bytes: int | None, accepted: bytes | None) -> Answer:
    body, coding = await packed(body, accepted)
    headers: Headers = [(b"content-type", _JSON_KIND if header_bytes is None else _BINARY_KIND)]
    if header_bytes is not None:
        headers.append((_HEADER_LENGTH, b"%d" % header_bytes))
    if coding is not None:
        headers.append((b"content-encoding", coding))
    return 200, body, headers


def _require_kind(headers: Mapping[bytes, bytes], *taken: bytes) -> bytes:
    """The kind of the body, JSON where it is not said; kinds that a form of a web page could send are refused."""
    given = headers.get(b"content-type", _JSON_KIND)
    if given in taken:
        return given
    kind = given.partition(b";")[0].strip().lower()
    if kind not in taken:
        raise WrongContent(f"the content-type has to be {' or '.join([one.decode() for one in taken])}")
    return kind


def _header_bytes(given: bytes, body_bytes: int) -> int:
    """How much of the body is JSON.

    Raises
    ------
    InvalidInput
        It is no number, or larger than the body.
    """
    if not given.isdigit() or len(given) > _LONGEST_NUMBER or int(given) > body_bytes:
        raise InvalidInput(
            "Inference-Header-Content-Length has to be the length of the JSON in bytes, "
            f"at most that of the body, which has {body_bytes}"
        )
    return int(given)


def _context(scope: Scope, request: InferenceRequest) -> RequestContext:
    deadline_s: float = scope["shoal.deadline_s"]
    if request.parameters:
        deadline_s = sooner(deadline_s, request.parameters)
    return RequestContext(
        request_id=scope["shoal.request_id"],
        principal=scope["shoal.principal"].name,
        deadline_s=deadline_s,
        id_replaced=scope["shoal.id_replaced"],
    )
