"""``shoal.connect(url)``: a workspace's interface, answered by servers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import polars as pl

from shoal.client import inference, questions
from shoal.client.lookups import RemoteLedger, RemoteRegistry
from shoal.client.predictions import RemotePredictions, resulting
from shoal.client.remote import RemoteFleet
from shoal.client.transport import Transport
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


class Client:
    """Asks servers and waits for their answers; may be used by several threads. Methods as of :class:`Workspace`.

    Attributes
    ----------
    registry : RemoteRegistry
        Looks up fleets, snapshots, aliases, lineage, what is served, API keys, stores, audit.
    ledger : RemoteLedger
        Looks up runs.
    predictions : RemotePredictions
        Those that are kept.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.registry = RemoteRegistry(transport)
        self.ledger = RemoteLedger(transport)
        self.predictions = RemotePredictions(transport)

    def fleets(self, *, tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """All fleets, or those with a tag or of a category."""
        return self._transport.ask(questions.fleets(tag, category))

    def fleet(self, reference: str) -> RemoteFleet:
        """The fleet that ``name``, ``name:version`` or ``name@alias`` means now; ``name``: what is served under it.

        Raises
        ------
        NotFound
            There is no such fleet, alias or version.
        """
        return RemoteFleet(self._transport, self._transport.converse(inference.opening(reference)))

    def describe(
        self,
        name: str,
        *,
        owner: str | None = None,
        description: str | None = None,
        category: str | None = None,
        tags: Iterable[str] | None = None,
    ) -> FleetRecord:
        """Change what is said about a fleet; what is not given stays."""
        return self._transport.ask(questions.describe(name, owner, description, category, tags))

    def promote(
        self,
        name: str,
        version: int,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> AliasChange:
        """Make an alias name a version, atomically; all servers follow within a second.

        Without an ``idempotency_key`` the client makes one, so that a request sent again after a broken connection is
        done once, and tells what was done.

        Raises
        ------
        Conflict
            The alias does not name ``expected``; or this was done, and somebody moved the alias since.
        """
        return self._transport.ask(questions.promote(name, version, alias, expected, reason, idempotency_key))

    def rollback(
        self,
        name: str,
        *,
        alias: str = CHAMPION,
        expected: int | None = None,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> AliasChange:
        """Make an alias name the version it named before, atomically; keys and errors as of :meth:`promote`."""
        return self._transport.ask(questions.rollback(name, alias, expected, reason, idempotency_key))

    def runs(
        self, *, state: RunState | None = None, fleet: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """The newest runs, newest first: those that stand somewhere, of a fleet, of a kind such as ``train``."""
        return self._transport.ask(questions.runs(state, fleet, kind, limit))

    def services(
        self, *, name: str | None = None, tag: str | None = None, category: str | None = None, key: str | None = None
    ) -> list[Service]:
        """Which servers hold which fleets: of a name, with a tag, of a category, with a model of a key."""
        return self._transport.ask(questions.services(name, tag, category, key))

    def statistics(self, name: str | None = None) -> list[ModelStatistics]:
        """What a fleet, or each, was asked per snapshot, as a server's processes counted it; no workspace knows."""
        return self._transport.ask(inference.statistics(name))

    def submit(
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
        """Ask for a prediction without waiting: the id of what a server is going to make.

        The same ``idempotency_key`` is the same prediction; without one the client makes one, so that a request sent
        again after a broken connection is done once. Those of one ``ordering_key`` are made in their order; after
        ``timeout_s`` seconds nobody wants it any more; the result goes to ``sink`` as well.
        """
        wishes = Wishes(ordering_key=ordering_key, idempotency_key=idempotency_key, sink=sink, deadline_s=timeout_s)
        return self._transport.converse(
            inference.submitting(
                reference, rows, wishes, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot
            )
        )

    def result(self, prediction_id: str, *, timeout_s: float = 0.0) -> pl.DataFrame:
        """What a prediction answered, waiting so many seconds for it.

        Raises
        ------
        DeadlineExceeded
            It is not done yet, or was discarded because nobody wanted it any more.
        ShoalError
            It failed; says why.
        """
        return self._transport.converse(resulting(prediction_id, timeout_s, self._transport.timeout_s))

    def serving(self, name: str) -> ServingSpec:
        """What a fleet is served with beside its models."""
        return self._transport.ask(questions.serving(name))

    def set_serving(
        self,
        name: str,
        spec: ServingSpec | Mapping[str, object] | str | Path | None = None,
        *,
        loaded: bool | None = None,
        alias: str | None = None,
        pinned: int | Keep | None = KEEP,
    ) -> ServingSpec:
        """Say how a fleet is served, and with what beside its models; a path is that of a YAML file here."""
        return self._transport.ask(questions.set_serving(name, spec, loaded=loaded, alias=alias, pinned=pinned))

    def load(self, name: str) -> Desired:
        """Have a fleet served, by every server and after a restart."""
        return self._transport.ask(questions.set_served(name, {"loaded": True}))

    def unload(self, name: str) -> Desired:
        """Have a fleet served no more."""
        return self._transport.ask(questions.set_served(name, {"loaded": False}))

    def pin(self, name: str, version: int | None) -> Desired:
        """Have a version served wherever the alias moves, and kept from garbage collection; None lets it go."""
        return self._transport.ask(questions.set_served(name, {"pinned": version}))

    def follow(self, name: str, alias: str) -> Desired:
        """Have what an alias names served; NotFound where the fleet does not have it."""
        return self._transport.ask(questions.set_served(name, {"alias": alias}))

    def sources(self) -> dict[str, Source]:
        """Named sources that features can be looked up in, by name; only a workspace can set them."""
        return self._transport.ask(questions.sources())

    def source(self, name: str) -> Source:
        """The source of a name; raises NotFound where there is none."""
        return self._transport.ask(questions.source(name))

    def sinks(self) -> dict[str, SinkSpec]:
        """Named sinks that results can go to, by name; only a workspace can set them."""
        return self._transport.ask(questions.sinks())

    def sink(self, name: str) -> SinkSpec:
        """The sink of a name; raises NotFound where there is none."""
        return self._transport.ask(questions.sink(name))

    def create_key(self, name: str, role: Role | str, *, expires_s: float | None = None) -> IssuedKey:
        """Make an API key that is taken for so many seconds, or for ever; its text is in the answer, this once."""
        return self._transport.ask(questions.create_key(name, role, expires_s))

    def revoke_key(self, key_id: str) -> ApiKeyRecord:
        """Take an API key no more, from now on and everywhere."""
        return self._transport.ask(questions.revoke_key(key_id))

    def rotate_key(self, key_id: str, *, overlap_s: float = 86_400.0, expires_s: float | None = None) -> IssuedKey:
        """Replace an API key, which is taken for ``overlap_s`` seconds yet."""
        return self._transport.ask(questions.rotate_key(key_id, overlap_s, expires_s))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
