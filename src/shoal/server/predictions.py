"""Predictions that nobody waits for, over REST: accepted with 202, asked for later, replayed.

Callers see and replay their own predictions; who may read sees everybody's, who may operate replays everybody's. What
a caller may not see is not there for it.
"""

import dataclasses
import datetime as dt
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote

from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidInput, NotFound
from shoal.jobs.states import PredictionState
from shoal.ledger import PredictionKind, PredictionRecord
from shoal.security.permissions import Permission
from shoal.security.principals import Principal
from shoal.server.errors import answer
from shoal.server.parameters import require_known, timeout_s
from shoal.server.permissions import Rule
from shoal.server.routing import Answer
from shoal.server.wire import encode
from shoal.serving.deferred import LONGEST_DEADLINE_S, DeferredPredictions, Wishes
from shoal.serving.documents import prediction_document
from shoal.serving.messages import InferenceRequest, RequestContext
from shoal.storage import filters

LIST: Final = "/api/v1/predictions"
ONE: Final = "/api/v1/predictions/{id}"
REPLAY: Final = "/api/v1/predictions/{id}/replay"
REPLAY_FAILED: Final = "/api/v1/predictions/replay"
PURGE: Final = "/api/v1/predictions/purge"
OF_REQUEST: Final = "/api/v1/requests/{id}/predictions"

_JSON_KIND: Final = (b"content-type", b"application/json")
_MARGIN_S: Final = 0.5
_NOBODY: Final = ""
_ENDED: Final = 200
_UNDER_WAY: Final = 202


def prefers_later(header: bytes) -> bool:
    """Whether a header ``Prefer`` asks not to wait for the answer (RFC 7240)."""
    return any(part.partition(b";")[0].strip().lower() == b"respond-async" for part in header.split(b","))


def wishes_of(headers: Mapping[bytes, bytes]) -> Wishes:
    """What the headers of a request say about how it is to be handled.

    Raises
    ------
    InvalidInput
        One of them cannot be used.
    """
    timeout = _text(headers, b"prediction-timeout")
    wishes = Wishes(
        ordering_key=_text(headers, b"ordering-key"),
        idempotency_key=_text(headers, b"idempotency-key"),
        sink=_text(headers, b"prediction-sink"),
        deadline_s=None if timeout is None else _seconds("the header Prediction-Timeout", timeout),
    )
    wishes.require_usable()
    return wishes


async def accept(deferred: DeferredPredictions, request: InferenceRequest, scope: Scope) -> Answer:
    """Keep a request and say where its answer is going to be; raises as :meth:`DeferredPredictions.accept` does.

    It is discarded when the first of both is over: the header ``Prediction-Timeout``, and the parameter ``timeout``.
    """
    context = RequestContext(request_id=scope["shoal.request_id"], principal=scope["shoal.principal"].name)
    wishes = wishes_of(scope["shoal.headers"])
    asked_s = timeout_s(request.parameters)
    if asked_s is not None and (wishes.deadline_s is None or asked_s < wishes.deadline_s):
        wishes = dataclasses.replace(wishes, deadline_s=asked_s)
        wishes.require_usable()
    accepted = await deferred.accept(request, context, wishes)
    location = b"/api/v1/predictions/" + accepted.id.encode()
    headers = [_JSON_KIND, (b"location", location), (b"preference-applied", b"respond-async")]
    return _UNDER_WAY, encode({"id": accepted.id, "state": accepted.state}), headers


class PredictionsApp:
    """Answers ``/api/v1/predictions`` and what is below, and which results a request has.

    Parameters
    ----------
    deferred : DeferredPredictions
        Knows them.

    Attributes
    ----------
    handlers : mapping of (method, template) to callable
        What answers each route of the permission table.
    """

    def __init__(self, deferred: DeferredPredictions) -> None:
        self._deferred = deferred
        self.handlers: Mapping[tuple[str, str], Callable[[Scope], Awaitable[tuple[int, object]]]] = {
            ("GET", LIST): self._list,
            ("GET", ONE): self._show,
            ("POST", REPLAY): self._replay,
            ("POST", REPLAY_FAILED): self._replay_failed,
            ("POST", PURGE): self._purge,
            ("GET", OF_REQUEST): self._of_request,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        rule: Rule = scope["shoal.rule"]
        status, shown = await self.handlers[rule.method, rule.template](scope)
        await answer(send, status, encode(shown))

    async def _list(self, scope: Scope) -> tuple[int, object]:
        asked = _query(scope, "state", "kind", "fleet", "principal", "since", "until", "limit")
        state = filters.word("state", PredictionState, asked.get("state"))
        kind = filters.word("kind", PredictionKind, asked.get("kind"))
        since, until = _time("since", asked), _time("until", asked)
        limit = filters.limit(asked.get("limit", "50"), most=filters.MOST)
        principal = _whose(scope["shoal.principal"], asked.get("principal"))
        if principal == _NOBODY:
            return _ENDED, []
        found = await self._deferred.listed(
            state=state, kind=kind, fleet=asked.get("fleet"), principal=principal, since=since, until=until,
            limit=limit,
        )  # fmt: skip
        return _ENDED, [prediction_document(record) for record in found]

    async def _of_request(self, scope: Scope) -> tuple[int, object]:
        asked = _query(scope, "principal", "limit")
        limit = filters.limit(asked.get("limit", "100"), most=filters.MOST)
        principal = _whose(scope["shoal.principal"], asked.get("principal"))
        if principal == _NOBODY:
            return _ENDED, []
        found = await self._deferred.of_request(_id(scope), principal=principal, limit=limit)
        return _ENDED, [prediction_document(record) for record in found]

    async def _show(self, scope: Scope) -> tuple[int, object]:
        asked = _query(scope, "timeout")
        wait_s = _seconds("timeout", asked["timeout"]) if "timeout" in asked else None
        prediction_id = _id(scope)
        record = _visible(await self._deferred.get(prediction_id), scope["shoal.principal"], Permission.READ)
        if not record.is_settled and wait_s is not None:
            left_s: float = scope["shoal.deadline_s"] - time.monotonic() - _MARGIN_S
            await self._deferred.wait(prediction_id, min(wait_s, left_s))
            record = await self._deferred.get(prediction_id)
        return _ENDED if record.is_settled else _UNDER_WAY, prediction_document(record)

    async def _replay(self, scope: Scope) -> tuple[int, object]:
        _query(scope)
        prediction_id = _id(scope)
        _visible(await self._deferred.get(prediction_id), scope["shoal.principal"], Permission.OPERATE)
        return _UNDER_WAY, prediction_document(await self._deferred.replay(prediction_id))

    async def _replay_failed(self, scope: Scope) -> tuple[int, object]:
        asked = _query(scope, "fleet")
        return _UNDER_WAY, {"waiting": await self._deferred.replay_failed(fleet=asked.get("fleet"))}

    async def _purge(self, scope: Scope) -> tuple[int, object]:
        asked = _query(scope, "fleet", "before")
        before = _time("before", asked)
        if before is None or not asked.get("fleet"):
            raise InvalidInput("say whose results, and which: fleet=NAME and before=2026-01-31T12:00:00Z")
        return _ENDED, {"purged": await self._deferred.purge(asked["fleet"], before=before)}


def _may(principal: Principal, permission: Permission) -> bool:
    return permission in principal.role.permissions


def _whose(caller: Principal, asked: str | None) -> str | None:
    """In whose name it was asked what a caller may see: in any, in one, or in none."""
    if _may(caller, Permission.READ):
        return asked
    return caller.name if asked in (None, caller.name) else _NOBODY


def _visible(record: PredictionRecord, principal: Principal, permission: Permission) -> PredictionRecord:
    if record.principal != principal.name and not _may(principal, permission):
        raise NotFound(f"there is no prediction {record.id!r} of yours; whoever asked for it sees it")
    return record


def _id(scope: Scope) -> str:
    return unquote(scope["raw_path"].split(b"?")[0].decode("latin-1").split("/")[4])


def _query(scope: Scope, *known: str) -> dict[str, str]:
    asked = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    require_known(asked, known)
    return asked


def _time(what: str, asked: Mapping[str, str]) -> dt.datetime | None:
    return filters.moment(what, asked[what]) if what in asked else None


def _seconds(what: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_DEADLINE_S:
        raise InvalidInput(f"{what} has to be a number of seconds above 0, at most {LONGEST_DEADLINE_S:.0f}")
    return seconds


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
