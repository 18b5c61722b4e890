"""Discovery: a server tells the registry that it is there; any server tells which there are and what they hold."""

import asyncio
import datetime as dt
import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from shoal.errors import InvalidInput, ShoalError
from shoal.registry import Registry, ServerRecord
from shoal.server.errors import answer
from shoal.serving.plane import DataPlane
from shoal.serving.services import find_services

BEAT_S: Final = 1.0
"""Seconds between two signs of life."""

_FILTERS: Final = ("name", "tag", "category", "key")

_encoder = msgspec.json.Encoder()
_log = logging.getLogger("shoal.server")


class Services:
    """Answers ``GET /api/v1/services?name=&tag=&category=&key=``.

    Parameters
    ----------
    registry : Registry
        Who is there, and what fleets are.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        unknown = sorted(set(asked) - set(_FILTERS))
        if unknown:
            raise InvalidInput(f"services are asked for by {', '.join(_FILTERS)}, not by {unknown[:3]}")
        services = await asyncio.to_thread(find_services, self._registry, **asked)
        await answer(send, 200, _encoder.encode(services))


class Heartbeat:
    """Tells the registry that this server is there, again and again.

    Parameters
    ----------
    registry : Registry
        Who is told.
    plane : DataPlane
        What is served.
    record : ServerRecord
        What is always true of this server.
    """

    def __init__(self, registry: Registry, plane: DataPlane, record: ServerRecord) -> None:
        self._registry = registry
        self._plane = plane
        self._record = record

    async def work(self) -> None:
        """Tell for ever; while the registry cannot be reached, nobody is told, and nothing else happens."""
        told = True
        while True:
            try:
                await asyncio.to_thread(self._registry.beat, self._now())
                told = True
            except ShoalError as error:
                if told:
                    _log.warning("the registry does not hear of this server: %s", error)
                told = False
            await asyncio.sleep(BEAT_S)

    async def end(self) -> None:
        """Tell that this server goes."""
        try:
            await asyncio.to_thread(self._registry.forget_server, self._record.id)
        except ShoalError as error:
            _log.warning("the registry does not hear that this server goes: %s", error)

    def _now(self) -> ServerRecord:
        fleets = {entry.name: int(entry.version) for entry in self._plane.index(ready=True)}
        staleness_s = round(self._plane.staleness_s(), 3)
        return replace(self._record, fleets=fleets, missed=self._plane.missed(), staleness_s=staleness_s)


def new_server(
    url: str, *, grpc_url: str | None, admin_url: str | None, category: str, clock: Callable[[], dt.datetime]
) -> ServerRecord:
    """What is always true of a server that starts now."""
    return ServerRecord(
        id=secrets.token_hex(8),
        url=url,
        grpc_url=grpc_url,
        admin_url=admin_url,
        category=category,
        started_at=clock(),
    )
