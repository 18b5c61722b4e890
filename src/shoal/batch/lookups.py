"""Features by key for the rows of a shard: each key is asked for once, many at a time; as it is now, or was then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from shoal.batch.asking import FETCH_S, INSTEAD, WHY, Asking, no_texts
from shoal.batch.indexing import index_apart
from shoal.errors import InvalidInput, InvalidSpec
from shoal.requests.found_features import FoundFeatures
from shoal.requests.lookup_columns import key_columns, typed, wanted
from shoal.requests.point_in_time import microseconds
from shoal.requests.readers import open_reader
from shoal.requests.sources import ParquetSource, Source
from shoal.requests.spec import FEATURE_DTYPES, FleetSchema, LookupSpec
from shoal.requests.violations import Violations
from shoal.storage.lookup_reader import Reader, moment
from shoal.table.keys import coerce
from shoal.types import Integers, Key, KeyColumn, KeyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """Rows with their features.

    Attributes
    ----------
    rows : polars.DataFrame
        The rows, and the features that they lacked.
    incomplete : Violations or None
        Rows that are not to be scored, and why.
    defaulted : Violations or None
        Rows that have defaults because the source failed, and how it did.
    """

    rows: pl.DataFrame
    incomplete: Violations | None = None
    defaulted: Violations | None = None


class ShardLookup:
    """The lookup of a job; safe to use from several threads.

    Parameters
    ----------
    spec : LookupSpec
        What to look up, and what to do when that fails.
    schema : FleetSchema
        The fleet's columns.
    source : Source
        Where.
    cache : Path
        Private folder for files that are mapped.
    time : str or None
        The input's column with each row's own time; None takes what the source has now.
    brought : sequence of str
        The features that the input lacks.
    limit_bytes : int or None
        The job's bound of memory.

    Attributes
    ----------
    brought : mapping of str to polars.DataType
        Those features and their types.

    Raises
    ------
    InvalidSpec
        The spec does not fit the fleet, or the source keeps no history and there is a time.
    """

    def __init__(
        self,
        spec: LookupSpec,
        schema: FleetSchema,
        source: Source,
        *,
        cache: Path,
        time: str | None,
        brought: Sequence[str],
        limit_bytes: int | None,
    ) -> None:
        _require_history(spec, source, time)
        self._spec = spec
        self._source = source
        self._cache = cache
        self._time = time
        self._limit_bytes = limit_bytes
        self._keys = key_columns(spec, schema)
        self._wanted = wanted(spec, self._keys)
        self._found = FoundFeatures(spec, schema)
        kinds = dict(zip(spec.features, self._found.kinds, strict=True))
        self.brought = {name: FEATURE_DTYPES[kinds[name]] for name in brought}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that rows need for it."""
        return (*self._spec.keys, *([] if self._time is None else [self._time]))

    def require_types(self, types: Mapping[str, pl.DataType]) -> None:
        """Refuse columns of types that cannot be looked up by.

        Raises
        ------
        InvalidInput
            Names the column.
        """
        for column in self._keys:
            _as_sent(pl.Series(column.name, [], dtype=types[column.name]), column)
        dtype = None if self._time is None else types[self._time]
        if not (dtype is None or dtype in (pl.Date, pl.String, pl.Null) or isinstance(dtype, pl.Datetime)):
            raise InvalidInput(
                f"field 'time': {self._time!r} is {dtype}, not a date or time; convert it with 'preprocess'"
            )

    def index(self) -> None:
        """Index the source if it is a file that is not indexed yet; raises as :func:`index_apart` does."""
        if isinstance(self._source, ParquetSource):
            path = Path(self._source.path)
            index_apart(path, self._wanted, cache=self._cache, limit_bytes=self._limit_bytes)

    def complete(self, rows: pl.DataFrame) -> Completed:
        """Give rows the features that they lack.

        Raises
        ------
        InvalidInput
            A column cannot be looked up by, or the source answers what can be no features.
        StorageError
            The source failed, and the spec says to fail then.
        """
        if not rows.height:
            return Completed(rows=self.without(rows))
        self.index()
        positions, keys = _distinct(rows, self._keys)
        if self._time is None:
            found = self._ask(lambda source: source.present(keys))[positions]
        else:
            times, odd = _times(rows[self._time])
            found = self._ask(lambda source: source.past(keys, positions, times))
            found = found.with_columns(pl.coalesce(pl.lit(odd), WHY).alias(WHY))
        return Completed(
            rows=rows.with_columns(found[name] for name in self.brought),
            incomplete=_noted(found[WHY]),
            defaulted=_noted(found[INSTEAD]),
        )

    def without(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with nothing where features would be."""
        return rows.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in self.brought.items())

    def require_openable(self) -> None:
        """Refuse a source that could not be opened by the shards; nothing is asked of it.

        Raises
        ------
        InvalidSpec
            Its definition does not fit the lookup, or an environment variable is not set.
        InvalidInput
            Its driver is not installed.
        """

        async def run() -> None:
            async with self._opened():
                pass

        with ThreadPoolExecutor(1) as pool:  # the caller's thread may run a loop of its own, as notebooks do
            pool.submit(asyncio.run, run()).result()

    def _ask(self, ask: Callable[[Asking], Awaitable[pl.DataFrame]]) -> pl.DataFrame:
        """Ask the source, opened for this shard alone: loops and connections belong to one thread."""

        async def run() -> pl.DataFrame:
            async with self._opened() as reader:
                return await ask(Asking(self._spec, self._keys, self._found, reader))

        return asyncio.run(run())

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Reader]:
        reader = open_reader(self._source, self._wanted, cache=self._cache, timeout_s=FETCH_S)
        try:
            yield reader
        finally:
            await reader.close()


def _require_history(spec: LookupSpec, source: Source, time: str | None) -> None:
    if time is None:
        return
    if spec.as_of is None:
        raise InvalidSpec(
            "field 'time' needs a lookup with 'as_of', the source's column that says since when a row held"
        )
    kind = source.__struct_config__.tag
    if kind not in ("sql", "parquet"):
        raise InvalidSpec(
            f"field 'time': the source {spec.source!r} of kind {kind} keeps no history; leave 'time' out to take what "
            "it has now, or look up in a source that does, an SQL table or a Parquet file"
        )


def _distinct(rows: pl.DataFrame, columns: Sequence[KeyColumn]) -> tuple[Integers, list[Key]]:
    """Each row's position among the different keys, and those; their number where a row has no whole key."""
    raw = pl.DataFrame([_as_sent(rows[column.name], column) for column in columns])
    different = raw.unique(maintain_order=True).with_row_index("_shoal_at")
    joined = raw.join(different, on=raw.columns, how="left", nulls_equal=True, maintain_order="left")
    keys = [typed(row, columns) for row in different.drop("_shoal_at").iter_rows()]
    known = {key: i for i, key in enumerate(dict.fromkeys(key for key in keys if key is not None))}
    places = np.array([len(known) if key is None else known[key] for key in keys], dtype=np.int64)
    return places[joined["_shoal_at"].to_numpy()], list(known)


def _as_sent(column: pl.Series, key: KeyColumn) -> pl.Series:
    """A column as a request would hold it: dates may be texts, everything else is of the key's type."""
    return column if key.type is KeyType.DATE and column.dtype == pl.String else coerce(column, key)[0]


def _times(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """A column's times in microseconds since 1970, and what is wrong with those that are none."""
    if column.dtype != pl.String:
        return microseconds(column, up=False), no_texts(len(column))
    known = column.unique().drop_nulls()
    odd = [text for text in known if not _is_time(text)]
    times = pl.select(pl.when(column.is_in(odd)).then(None).otherwise(column)).to_series()
    reasons = pl.Series([f"{column.name!r} is {text!r}, no time" for text in odd], dtype=pl.String)
    return microseconds(times, up=False), column.replace_strict(pl.Series(odd, dtype=pl.String), reasons, default=None)


def _is_time(text: str) -> bool:
    try:
        moment(text)
    except InvalidInput:
        return False
    return True


def _noted(reasons: pl.Series) -> Violations | None:
    rows = reasons.is_not_null().arg_true()
    return Violations.of(dict(zip(rows, reasons.gather(rows), strict=True)), len(reasons))
