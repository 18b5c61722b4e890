"""Parquet files that are written piece by piece, while the next piece is being made."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

#: The files are read once and soon.
COMPRESSION = "lz4"

Piece = TypeVar("Piece")


class ParquetPieces:
    """A Parquet file, each piece a row group of it. The first piece, which may be without rows, says the columns.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    rows : int
        How many were written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def write(self, piece: pl.DataFrame) -> None:
        """Append rows.

        Raises
        ------
        pyarrow.ArrowException
            Parquet has no type for a column.
        OSError
            The disk is full, or the like.
        """
        table = piece.to_arrow()
        self._writer = self._writer or self._opened(table.schema)
        if table.num_rows:
            self._writer.write_table(table)
        self.rows += table.num_rows

    def _opened(self, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            self._path,
            schema,
            compression=COMPRESSION,
            write_statistics=False,
            use_dictionary=False,  # looking for values that repeat took half the time
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def ahead(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same pieces, the next of which is made in a thread while the caller is at one."""
    with ThreadPoolExecutor(1, thread_name_prefix="shoal-pieces") as pool:
        following = pool.submit(next, pieces, None)
        while (piece := following.result()) is not None:
            following = pool.submit(next, pieces, None)
            yield piece
