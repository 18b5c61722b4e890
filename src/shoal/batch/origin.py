"""What a prepared file is made from: Parquet files that are read piece by piece, and what the user calls them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl
import pyarrow.parquet as pq

from shoal.batch.columns import CASTS, NUMBER_KIND, as_declared
from shoal.batch.source import FILE, ROW, TEXT
from shoal.table.texts import whole
from shoal.types import KeyType

_INDEX = "_index_of_row"

_WITHIN_INT64 = frozenset({
    pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.String(), pl.Null(),
})  # fmt: skip

#: How much of a column is read from disk at once.
BUFFER_BYTES = 2**18

#: Rows that are looked at for the size of a row.
SAMPLE_ROWS = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """One Parquet file: the user's own, or a copy of their text file or of a part of it.

    Attributes
    ----------
    path : str
        The file to read.
    name : str
        The user's file, for row ids and messages.
    rows : int
        How many rows it has.
    first_row : int
        Number of its first row in the user's file.
    types : mapping of str to str
        Columns that are kept as texts and the name of their type, see :data:`shoal.batch.columns.CASTS`.
    text : bool
        Whether it is a copy of a text file.
    """

    path: str
    name: str
    rows: int
    first_row: int = 0
    types: Mapping[str, str] = field(default_factory=dict)
    text: bool = False

    def frame(self) -> pl.LazyFrame:
        """All rows with their ids and types."""
        return self._numbered(self._scan(row_index_name=_INDEX, row_index_offset=self.first_row))

    def pieces(self, piece_bytes: int) -> Iterator[pl.DataFrame]:
        """The same in pieces of about so many bytes."""
        first = self.first_row
        for piece in self.raw_pieces(piece_bytes):
            yield self._numbered(piece.with_row_index(_INDEX, first).lazy()).collect()
            first += piece.height

    def raw_pieces(self, piece_bytes: int) -> Iterator[pl.DataFrame]:
        """The file's own columns in pieces of about so many bytes, none across row groups.

        PyArrow goes through a row group from page to page. Polars would begin anew for each slice: 45 s and not 0.6 s
        for 600 MiB in 1,300 pieces.
        """
        schema = self._scan().collect_schema()
        most = piece_bytes / max(self._row_bytes(), 1)
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                encoded = group.total_byte_size / max(group.num_rows, 1)
                step = max(1, int(min(most, piece_bytes / max(encoded, 1))))
                for batch in file.iter_batches(step, row_groups=[number], use_threads=False):
                    yield pl.DataFrame(pl.from_arrow(batch)).select(schema.names()).cast(schema)

    def _scan(self, row_index_name: str | None = None, row_index_offset: int = 0) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False, row_index_name=row_index_name, row_index_offset=row_index_offset)

    def _numbered(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        numbered = frame.drop(FILE, ROW, strict=False).with_columns(
            pl.lit(self.name).alias(FILE),
            pl.col(_INDEX).cast(pl.Int64).alias(ROW),
            *(CASTS[kind](pl.col(name)).alias(name) for name, kind in self.types.items()),
        )
        return numbered.select(FILE, ROW, pl.exclude(FILE, ROW, _INDEX))

    def _row_bytes(self) -> float:
        sample = self._scan().head(SAMPLE_ROWS).collect()
        return float(sample.estimated_size() / max(sample.height, 1))


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Several origins as one table, one behind the other; columns go by name, and numbers widen.

    Attributes
    ----------
    each : sequence of Origin
        In the order of the input.
    declared : mapping of str to str
        What the fleet says of columns, though single values may not be that; see
        :class:`shoal.batch.columns.TypeSearch`.
    """

    each: Sequence[Origin]
    declared: Mapping[str, str]

    def schema(self) -> pl.Schema:
        """The columns of all origins, each in the type that holds the values of all.

        Raises
        ------
        polars.exceptions.PolarsError
            The origins do not go together.
        """
        ids = pl.LazyFrame(schema={FILE: pl.String, ROW: pl.Int64})
        return pl.concat([ids, *self._frames()], how="diagonal_relaxed").collect_schema()

    def frame(self) -> pl.LazyFrame:
        """All rows."""
        none = pl.LazyFrame(schema=self.schema())
        return self._beside_texts(pl.concat([none, *self._frames()], how="diagonal_relaxed"))

    def pieces(self, piece_bytes: int) -> Iterator[pl.DataFrame]:
        """All rows, in pieces of about so many bytes with the columns of :meth:`frame`; at least one piece.

        They are frames in memory: lazy ones that were asked for their schema were never freed by Polars 2.1.
        """
        none = pl.DataFrame(schema=self.schema())
        inexact = self._inexact
        yield self._beside_texts(none.lazy()).collect()
        for one in self.each:
            for piece in one.pieces(piece_bytes):
                added = pl.concat([none, _exactly(piece.lazy(), inexact).collect()], how="diagonal_relaxed")
                yield self._beside_texts(added.lazy()).collect()

    def _frames(self) -> list[pl.LazyFrame]:
        inexact = self._inexact
        return [_exactly(one.frame(), inexact) for one in self.each]

    @cached_property
    def _inexact(self) -> frozenset[str]:
        """Keys that are integers of 64 bits in one origin and something else in another, which may not hold them."""
        integers = [name for name, kind in self.declared.items() if kind == KeyType.INTEGER]
        if len(self.each) < 2 or not integers:
            return frozenset()
        schemas = [one.frame().collect_schema() for one in self.each]
        found = {name: {schema[name] for schema in schemas if name in schema} for name in integers}
        return frozenset(name for name, types in found.items() if len(types) > 1 and types - _WITHIN_INT64)

    def _beside_texts(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """A column in which some value is not what the fleet says: for ``where`` as if it were, its texts for scoring.

        Keys that are texts in the user's own Parquet files stay texts for ``where``.
        """
        schema = frame.collect_schema()
        from_texts, inexact = any(one.text for one in self.each), self._inexact
        odd = {
            name: kind
            for name, kind in self.declared.items()
            if schema.get(name) == pl.String
            and kind != KeyType.STRING
            and (from_texts or kind == NUMBER_KIND or name in inexact)
        }
        texts = [pl.col(name).alias(TEXT + name) for name in odd]
        typed = [as_declared(kind)(pl.col(name)).alias(name) for name, kind in odd.items()]
        return frame.with_columns(texts).with_columns(typed) if odd else frame


def _exactly(frame: pl.LazyFrame, names: Collection[str]) -> pl.LazyFrame:
    """Numbers of these columns as texts, which hold integers of any size; whole ones without a point."""
    schema = frame.collect_schema()
    texts = [
        (pl.coalesce(whole(column).cast(pl.String), column.fill_nan(None).cast(pl.String))
         if schema[name].is_float() else column.cast(pl.String)).alias(name)
        for name in names if name in schema and schema[name].is_numeric()
        for column in (pl.col(name),)
    ]  # fmt: skip
    return frame.with_columns(texts) if texts else frame
