"""What a prepared file is made from: Parquet files that are read piece by piece, and what the user calls them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow.parquet as pq

from shoal.batch.columns import CASTS
from shoal.batch.source import FILE, ROW, TEXT

_INDEX = "_index_of_row"

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
    """

    path: str
    name: str
    rows: int
    first_row: int = 0
    types: Mapping[str, str] = field(default_factory=dict)

    def frame(self, offset: int = 0, rows: int | None = None) -> pl.LazyFrame:
        """Rows with their ids and types; all of them unless told."""
        whole = pl.scan_parquet(self.path, glob=False, row_index_name=_INDEX, row_index_offset=self.first_row)
        slice_ = whole if rows is None else whole.slice(offset, rows)
        numbered = slice_.drop(FILE, ROW, strict=False).with_columns(
            pl.lit(self.name).alias(FILE),
            pl.col(_INDEX).cast(pl.Int64).alias(ROW),
            *(CASTS[kind](pl.col(name)).alias(name) for name, kind in self.types.items()),
        )
        return numbered.select(FILE, ROW, pl.exclude(FILE, ROW, _INDEX))

    def pieces(self, piece_bytes: int) -> Iterator[tuple[int, int]]:
        """Offset and rows of neighbouring pieces that take about so many bytes in memory, along row groups."""
        metadata = pq.read_metadata(self.path)
        fewest = piece_bytes / max(self._row_bytes(), 1)
        offset = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            encoded = group.total_byte_size / max(group.num_rows, 1)
            step = max(1, int(min(fewest, piece_bytes / max(encoded, 1))))
            for start in range(0, group.num_rows, step):
                rows = min(step, group.num_rows - start)
                yield offset + start, rows
            offset += group.num_rows

    def _row_bytes(self) -> float:
        sample = pl.scan_parquet(self.path, glob=False).head(SAMPLE_ROWS).collect()
        return float(sample.estimated_size() / max(sample.height, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Origins:
    """Several origins as one table, one behind the other; columns go by name, and numbers widen.

    Attributes
    ----------
    each : sequence of Origin
        In the order of the input.
    numbers : frozenset of str
        Columns that are numbers for the fleet, though single values may not be.
    """

    each: Sequence[Origin]
    numbers: frozenset[str]

    def schema(self) -> pl.Schema:
        """The columns of all origins, each in the type that holds the values of all.

        Raises
        ------
        polars.exceptions.PolarsError
            The origins do not go together.
        """
        ids = pl.LazyFrame(schema={FILE: pl.String, ROW: pl.Int64})
        return pl.concat([ids, *(one.frame() for one in self.each)], how="diagonal_relaxed").collect_schema()

    def frame(self) -> pl.LazyFrame:
        """All rows."""
        none = pl.LazyFrame(schema=self.schema())
        return self._beside_texts(pl.concat([none, *(one.frame() for one in self.each)], how="diagonal_relaxed"))

    def pieces(self, piece_bytes: int) -> Iterator[pl.LazyFrame]:
        """All rows, in pieces of about so many bytes with the columns of :meth:`frame`; at least one piece."""
        none = pl.LazyFrame(schema=self.schema())
        yield self._beside_texts(none)
        for one in self.each:
            for offset, rows in one.pieces(piece_bytes):
                piece = pl.concat([none, one.frame(offset, rows)], how="diagonal_relaxed")
                yield self._beside_texts(piece)

    def _beside_texts(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """A number column in which some value is no number: numbers for ``where``, its texts for scoring to refuse."""
        schema = frame.collect_schema()
        odd = [name for name in schema if name in self.numbers and schema[name] == pl.String]
        texts = [pl.col(name).alias(TEXT + name) for name in odd]
        return frame.with_columns(texts).with_columns(pl.col(odd).cast(pl.Float64, strict=False)) if odd else frame
