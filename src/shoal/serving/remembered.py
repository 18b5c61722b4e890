"""Answers that were given before, kept for a while."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from shoal.requests.prediction_cache import PredictionKeys, ProcessStore, Store
from shoal.serving.outputs import Output, OutputSchema, Values
from shoal.serving.rows import Rows
from shoal.serving.scoring import Part
from shoal.serving.statistics import CacheTally
from shoal.storage.decoding import decodable

Row: TypeAlias = list[Values]
"""An answer: the level that gave it, then the elements of every output."""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is kept, with the time when it was given, in seconds since 1970."""

    made_at_s: float
    row: list[list[str | int | float | bool | None]]


class Remembered:
    """The prediction cache of one snapshot of a fleet.

    Parameters
    ----------
    store : Store
        Where answers are kept.
    keys : PredictionKeys
        What they are found by.
    outputs : OutputSchema
        The fleet's outputs; all of them are kept, whichever a request wants.
    """

    def __init__(self, store: Store, keys: PredictionKeys, outputs: OutputSchema) -> None:
        self.store = store
        self.tally = CacheTally()
        self._keys = keys
        self._outputs = outputs.outputs
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(decodable(_Kept))

    async def parts(
        self, rows: Rows, score: Callable[[Rows], Awaitable[Sequence[Part]]]
    ) -> tuple[Sequence[Part], float | None]:
        """The answers for rows: those that are kept, and the others scored and kept from now on.

        Beside them, the age of the oldest that was kept, in seconds; None where none was.

        Parameters
        ----------
        rows : Rows
            Complete.
        score : callable
            Scores rows.
        """
        keys = self._keys.of(rows.columns)
        kept = await self._get(keys)
        known = [value if rows.is_repeatable(row) else None for row, value in enumerate(kept)]
        read = [None if value is None else self._read(value) for value in known]
        found = [None if one is None else cast("Row", one.row) for one in read]
        missing = [row for row, values in enumerate(found) if values is None]
        self.tally.hits += len(keys) - len(missing)
        self.tally.misses += len(missing)
        if len(missing) == len(keys):
            parts = await score(rows)
            await self._keep(keys, missing, rows, parts)
            return parts, None
        if missing:
            parts = await score(rows.take(missing))
            fresh = await self._keep(keys, missing, rows, parts)
            for row, values in zip(missing, fresh, strict=True):
                found[row] = values
        made_at_s = min(one.made_at_s for one in read if one is not None)
        batch = _KeptBatch([row for row in found if row is not None], self._outputs)
        return [(batch, 0, rows.rows)], max(0.0, time.time() - made_at_s)

    async def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if isinstance(self.store, ProcessStore):
            return self.store.get_many_now(keys)
        return await self.store.get_many(keys)

    def _read(self, value: bytes) -> _Kept | None:
        """A kept answer; None for what somebody else put there."""
        try:
            kept = self._decoder.decode(value)
        except msgspec.MsgspecError:
            return None
        return kept if len(kept.row) == len(self._outputs) + 1 else None

    async def _keep(self, keys: Sequence[bytes], rows: Sequence[int], given: Rows, parts: Sequence[Part]) -> list[Row]:
        """Keep fresh answers; those of rows that could not be completed, or read, are not."""
        fresh = [row for part in parts for row in self._rows(part)]
        chosen = [i for i, row in enumerate(rows) if given.is_repeatable(row)]
        made_at_s = time.time()  # by the one clock that processes and machines share
        encoded = [self._encoder.encode([made_at_s, fresh[i]]) for i in chosen]
        await self.store.put_many([keys[rows[i]] for i in chosen], encoded)
        return fresh

    def _rows(self, part: Part) -> list[Row]:
        batch, start, stop = part
        columns: list[list[Values]] = [[[int(level)] for level in batch.levels[start:stop]]]
        for output in self._outputs:
            values, width = batch.values(output, start, stop), output.width or 1
            columns.append([values[i : i + width] for i in range(0, len(values), width)])
        return [list(row) for row in zip(*columns, strict=True)]


class _KeptBatch:
    """Kept answers as if one call had just found them."""

    __slots__ = ("_positions", "_rows", "levels")

    def __init__(self, rows: Sequence[Row], outputs: Sequence[Output]) -> None:
        self._rows = rows
        self._positions = {output.name: i for i, output in enumerate(outputs, 1)}
        self.levels: NDArray[np.int8] = np.array([row[0][0] for row in rows], dtype=np.int8)

    def values(self, output: Output, start: int, stop: int) -> Values:
        """Some rows' elements of an output."""
        position = self._positions[output.name]
        return [value for row in self._rows[start:stop] for value in row[position]]
