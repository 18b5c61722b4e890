"""Fleets and single models on servers."""

from collections.abc import Sequence
from typing import Final

import polars as pl

from shoal.client.exchange import Question, get, part, reading
from shoal.client.rows import ROWS_PER_REQUEST, Answered, Described, answer_frame, request_body
from shoal.client.transport import AsyncTransport, Transport
from shoal.scoring.frames import Frame, as_frame
from shoal.table.keys import ANY
from shoal.types import KeyValue

_ON_REQUEST: Final = ("outcome", "model_level", "snapshot")


class Asked:
    """What there is to say of a remote fleet or model without asking anybody.

    Parameters
    ----------
    name : str
        The address.
    version : str or None
        The snapshot that was asked for; None for whatever is served.
    described : Described
        What the server said.
    """

    def __init__(self, name: str, version: str | None, described: Described) -> None:
        self.name = name
        self._version = version
        self._described = described

    @property
    def keys(self) -> list[str]:
        """The key columns."""
        return self._described.keys

    @property
    def features(self) -> list[str]:
        """The input columns beside the keys."""
        return self._described.features

    @property
    def task(self) -> str:
        """What it predicts."""
        return str(self._described.properties.get("task", ""))

    @property
    def version(self) -> int:
        """The snapshot that was served when this was made."""
        return int(self._described.versions[0])

    def outputs(self, *, outcome: bool, model_level: bool, snapshot: bool) -> list[str]:
        """Names of the outputs that a prediction has."""
        wanted = {"outcome": outcome, "model_level": model_level, "snapshot": snapshot}
        usual = [one.name for one in self._described.outputs if one.name not in (*_ON_REQUEST, "reason")]
        return usual + [name for name in _ON_REQUEST if wanted[name]]

    def question(self, rows: pl.DataFrame, outputs: Sequence[str], version: str | None) -> Question[Answered]:
        """One request for rows."""
        fleet = self.name.partition(":")[0]
        version = version or self._version
        versioned = f"/versions/{version}" if version is not None else ""
        return Question(
            method="POST",
            path=f"/v2/models/{part(self.name)}{versioned}/infer",
            body=request_body(rows, self._described, outputs),
            read=reading(Answered),
            fleet=fleet,
        )

    def address(self, key: Sequence[KeyValue]) -> str:
        """The address of a single model of this fleet."""
        return ":".join([self.name, *(part(_key_part(value)) for value in key)])

    def pieces(self, frame: Frame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
        """The rows, and the pieces that they are asked about in; none is one empty piece."""
        rows = as_frame(frame)
        starts = range(0, max(rows.height, 1), ROWS_PER_REQUEST)
        return rows, [rows.slice(start, ROWS_PER_REQUEST) for start in starts]

    def joined(self, rows: pl.DataFrame, answers: Sequence[Answered]) -> pl.DataFrame:
        """The key columns and the answers of all pieces."""
        return pl.concat([rows.select(self.keys), pl.concat([answer_frame(one) for one in answers])], how="horizontal")


class RemoteModel(Asked):
    """A single model, or a fleet, on a server."""

    def __init__(self, transport: Transport, name: str, version: str | None, described: Described) -> None:
        super().__init__(name, version, described)
        self._transport = transport

    def predict(
        self, frame: Frame, *, outcome: bool = False, model_level: bool = False, snapshot: bool = False
    ) -> pl.DataFrame:
        """Predict every row, all of them with one snapshot; columns as of :meth:`shoal.Fleet.predict`.

        Raises
        ------
        InvalidInput
            A column is missing or of an impossible type.
        Unavailable
            The servers have too much to do, and still had after several attempts.
        """
        rows, pieces = self.pieces(frame)
        outputs = self.outputs(outcome=outcome, model_level=model_level, snapshot=snapshot)
        answers = [self._transport.ask(self.question(pieces[0], outputs, None))]
        answers += [self._transport.ask(self.question(one, outputs, answers[0].model_version)) for one in pieces[1:]]
        return self.joined(rows, answers)


class RemoteFleet(RemoteModel):
    """A fleet on a server, which answers as :class:`shoal.Fleet` does."""

    def __getitem__(self, key: tuple[KeyValue, ...] | KeyValue) -> RemoteModel:
        """The model of one segment; raises NotFound where the segment has none of its own."""
        name = self.address(key if isinstance(key, tuple) else (key,))
        described = self._transport.ask(describe(name, self._version))
        return RemoteModel(self._transport, name, self._version, described)


class AsyncRemoteModel(Asked):
    """A single model, or a fleet, on a server, asked without blocking."""

    def __init__(self, transport: AsyncTransport, name: str, version: str | None, described: Described) -> None:
        super().__init__(name, version, described)
        self._transport = transport

    async def predict(
        self, frame: Frame, *, outcome: bool = False, model_level: bool = False, snapshot: bool = False
    ) -> pl.DataFrame:
        """As :meth:`RemoteModel.predict`."""
        rows, pieces = self.pieces(frame)
        outputs = self.outputs(outcome=outcome, model_level=model_level, snapshot=snapshot)
        answers = [await self._transport.ask(self.question(pieces[0], outputs, None))]
        version = answers[0].model_version
        answers += [await self._transport.ask(self.question(one, outputs, version)) for one in pieces[1:]]
        return self.joined(rows, answers)


class AsyncRemoteFleet(AsyncRemoteModel):
    """A fleet on a server, asked without blocking."""

    async def model(self, key: tuple[KeyValue, ...] | KeyValue) -> AsyncRemoteModel:
        """The model of one segment; raises NotFound where the segment has none of its own."""
        name = self.address(key if isinstance(key, tuple) else (key,))
        described = await self._transport.ask(describe(name, self._version))
        return AsyncRemoteModel(self._transport, name, self._version, described)


def describe(name: str, version: str | None) -> Question[Described]:
    """Ask what a fleet or model takes and gives."""
    versioned = f"/versions/{version}" if version is not None else ""
    return get(f"/v2/models/{part(name)}{versioned}", Described, fleet=name.partition(":")[0])


def _key_part(value: KeyValue) -> str:
    """A key's value as addresses have it."""
    if value is None:
        return ANY
    return str(value).lower() if isinstance(value, bool) else str(value)


def aliased(reference: str) -> tuple[str, str | None, str | None]:
    """Name, version and alias of ``name``, ``name:3`` or ``name@alias``."""
    name, _, alias = reference.partition("@")
    name, _, version = name.partition(":")
    return name, version or None, alias or None
