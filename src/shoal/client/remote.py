"""Fleets and single models on servers, in the two kinds: one blocks, one awaits."""

import polars as pl

from shoal.client.inference import Asked
from shoal.client.transport import AsyncTransport, Transport
from shoal.scoring.frames import Frame
from shoal.serving.deferred import Wishes
from shoal.types import KeyValue


class RemoteModel(Asked):
    """A single model, or a fleet, on a server."""

    def __init__(self, transport: Transport, asked: Asked) -> None:
        super().__init__(asked.name, asked._version, asked._described, asked._said)
        self._transport = transport

    def predict(
        self, frame: Frame, *, outcome: bool = False, model_level: bool = False, snapshot: bool = False
    ) -> pl.DataFrame:
        """Predict every row, all of them with one snapshot; columns as of :meth:`shoal.Fleet.predict`.

        Raises
        ------
        InvalidInput
            A column is missing or of an impossible type, or a single model is asked about rows of another segment.
        Unavailable
            The servers have too much to do, and still had after several attempts.
        """
        return self._transport.converse(
            self.predicting(frame, outcome=outcome, model_level=model_level, snapshot=snapshot)
        )

    def submit(
        self,
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
        """Ask for a prediction without waiting; as :meth:`Client.submit`, and without looking at the fleet again."""
        wishes = Wishes(ordering_key=ordering_key, idempotency_key=idempotency_key, sink=sink, deadline_s=timeout_s)
        return self._transport.ask(
            self.submitting(rows, wishes, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot)
        )


class RemoteFleet(RemoteModel):
    """A fleet on a server, which answers as :class:`shoal.Fleet` does."""

    def __getitem__(self, key: tuple[KeyValue, ...] | KeyValue) -> RemoteModel:
        """The model of one segment; raises NotFound where the segment has none of its own."""
        described = self._transport.ask(self.describing(key))
        return RemoteModel(self._transport, self.single(key, described))

    @property
    def models(self) -> pl.DataFrame:
        """One row per model of the snapshot, as of :attr:`shoal.Fleet.models`."""
        return self._transport.converse(self.models_listing())

    def diff(self, other: "RemoteFleet") -> pl.DataFrame:
        """What changed from this snapshot to another of the fleet, as of :meth:`shoal.Fleet.diff`."""
        return self._transport.converse(self.diff_listing(other))


class AsyncRemoteModel(Asked):
    """A single model, or a fleet, on a server, asked without blocking."""

    def __init__(self, transport: AsyncTransport, asked: Asked) -> None:
        super().__init__(asked.name, asked._version, asked._described, asked._said)
        self._transport = transport

    async def predict(
        self, frame: Frame, *, outcome: bool = False, model_level: bool = False, snapshot: bool = False
    ) -> pl.DataFrame:
        """As :meth:`RemoteModel.predict`."""
        return await self._transport.converse(
            self.predicting(frame, outcome=outcome, model_level=model_level, snapshot=snapshot)
        )

    async def submit(
        self,
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
        """As :meth:`RemoteModel.submit`."""
        wishes = Wishes(ordering_key=ordering_key, idempotency_key=idempotency_key, sink=sink, deadline_s=timeout_s)
        return await self._transport.ask(
            self.submitting(rows, wishes, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot)
        )


class AsyncRemoteFleet(AsyncRemoteModel):
    """A fleet on a server, asked without blocking."""

    async def model(self, key: tuple[KeyValue, ...] | KeyValue) -> AsyncRemoteModel:
        """The model of one segment; raises NotFound where the segment has none of its own."""
        described = await self._transport.ask(self.describing(key))
        return AsyncRemoteModel(self._transport, self.single(key, described))

    async def models(self) -> pl.DataFrame:
        """As :attr:`RemoteFleet.models`."""
        return await self._transport.converse(self.models_listing())

    async def diff(self, other: "AsyncRemoteFleet") -> pl.DataFrame:
        """As :meth:`RemoteFleet.diff`."""
        return await self._transport.converse(self.diff_listing(other))
