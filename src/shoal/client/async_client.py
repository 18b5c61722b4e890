"""``shoal.connect_async(url)``: the client of an event loop."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl

from shoal.client import inference, questions
from shoal.client.lookups import AsyncRemoteLedger, AsyncRemoteRegistry
from shoal.client.predictions import AsyncRemotePredictions, resulting
from shoal.client.remote import AsyncRemoteFleet
from shoal.client.transport import AsyncTransport
from shoal.jobs.states import RunState
from shoal.ledger import RunRecord
from shoal.registry import CHAMPION, AliasChange, Desired, FleetRecord
from shoal.registry.serving import KEEP, Keep
from shoal.requests.sources import Source
from shoal.requests.spec import ServingSpec
from shoal.scoring.frames import Frame
from shoal.security.api_keys import ApiKeyRecord, IssuedKey
from shoal.security.permissions import Role
from shoal.serving.deferred import Wishes
from shoal.serving.messages import ModelStatistics
from shoal.serving.services import Service
from shoal.serving.sinks import SinkSpec


class AsyncClient:
    """Asks servers without blocking; methods and attributes as of :class:`~shoal.client.client.Client`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self.registry = AsyncRemoteRegistry(transport)
        self.ledger = AsyncRemoteLedger(transport)
        self.predictions = AsyncRemotePredictions(transport)

    async def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """As :meth:`Client.fleets`."""
        return await self._transport.ask(questions.fleets(tag, category))

    async def fleet(self, reference: str) -> AsyncRemoteFleet:
        """As :meth:`Client.fleet`."""
        return AsyncRemoteFleet(self._transport, await self._transport.converse(inference.opening(reference)))

    async def describe(
        self,
        name: str,
        *,
        owner: str | None = None,
        description: str | None = None,
        category: str | None = None,
        tags: Iterable[str] | None = None,
    ) -> FleetRecord:
        """As :meth:`Client.describe`."""
        return await self._transport.ask(questions.describe(name, owner, description, category, tags))

    async def promote(
        self,
        name: str,
        version: int,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> AliasChange:
        """As :meth:`Client.promote`."""
        return await self._transport.ask(questions.promote(name, version, alias, expected, reason, idempotency_key))

    async def rollback(
        self,
        name: str,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> AliasChange:
        """As :meth:`Client.rollback`."""
        return await self._transport.ask(questions.rollback(name, alias, expected, reason, idempotency_key))

    async def runs(
        self, *, state: RunState | None = None, fleet: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """As :meth:`Client.runs`."""
        return await self._transport.ask(questions.runs(state, fleet, kind, limit))

    async def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """As :meth:`Client.services`."""
        return await self._transport.ask(questions.services(name, tag, category, key))

    async def statistics(self, name: str | None = None) -> list[ModelStatistics]:
        """As :meth:`Client.statistics`."""
        return await self._transport.ask(inference.statistics(name))

    async def submit(
        self,
        reference: str,
        rows: Frame,
        *,
        outcome: bool = False,
        reason: bool = False,
        model_level: bool = False,
        snapshot: bool = False,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        timeout_s: float | None = None,
        sink: str | None = None,
    ) -> str:
        """As :meth:`Client.submit`."""
        wishes = Wishes(ordering_key=ordering_key, idempotency_key=idempotency_key, sink=sink, deadline_s=timeout_s)
        return await self._transport.converse(
            inference.submitting(
                reference, rows, wishes, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot
            )
        )

    async def result(self, prediction_id: str, *, timeout_s: float = 0.0) -> pl.DataFrame:
        """As :meth:`Client.result`."""
        return await self._transport.converse(resulting(prediction_id, timeout_s, self._transport.timeout_s))

    async def serving(self, name: str) -> ServingSpec:
        """As :meth:`Client.serving`."""
        return await self._transport.ask(questions.serving(name))

    async def set_serving(
        self,
        name: str,
        spec: ServingSpec | Mapping[str, object] | str | Path | None = None,
        *,
        loaded: bool | None = None,
        alias: str | None = None,
        pinned: int | Keep | None = KEEP,
    ) -> ServingSpec:
        """As :meth:`Client.set_serving`."""
        return await self._transport.ask(questions.set_serving(name, spec, loaded=loaded, alias=alias, pinned=pinned))

    async def load(self, name: str) -> Desired:
        """As :meth:`Client.load`."""
        return await self._transport.ask(questions.set_served(name, {"loaded": True}))

    async def unload(self, name: str) -> Desired:
        """As :meth:`Client.unload`."""
        return await self._transport.ask(questions.set_served(name, {"loaded": False}))

    async def pin(self, name: str, version: int | None) -> Desired:
        """As :meth:`Client.pin`."""
        return await self._transport.ask(questions.set_served(name, {"pinned": version}))

    async def follow(self, name: str, alias: str) -> Desired:
        """As :meth:`Client.follow`."""
        return await self._transport.ask(questions.set_served(name, {"alias": alias}))

    async def sources(self) -> dict[str, Source]:
        """As :meth:`Client.sources`."""
        return await self._transport.ask(questions.sources())

    async def source(self, name: str) -> Source:
        """As :meth:`Client.source`."""
        return await self._transport.ask(questions.source(name))

    async def sinks(self) -> dict[str, SinkSpec]:
        """As :meth:`Client.sinks`."""
        return await self._transport.ask(questions.sinks())

    async def sink(self, name: str) -> SinkSpec:
        """As :meth:`Client.sink`."""
        return await self._transport.ask(questions.sink(name))

    async def create_key(self, name: str, role: Role | str, *, expires_s: float | None = None) -> IssuedKey:
        """As :meth:`Client.create_key`."""
        return await self._transport.ask(questions.create_key(name, role, expires_s))

    async def revoke_key(self, key_id: str) -> ApiKeyRecord:
        """As :meth:`Client.revoke_key`."""
        return await self._transport.ask(questions.revoke_key(key_id))

    async def rotate_key(
        self, key_id: str, *, overlap_s: float = 86_400.0, expires_s: float | None = None
    ) -> IssuedKey:
        """As :meth:`Client.rotate_key`."""
        return await self._transport.ask(questions.rotate_key(key_id, overlap_s, expires_s))

    async def close(self) -> None:
        """As :meth:`Client.close`."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()
