"""What callers hand in as rows, as a Polars frame."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import InvalidInput

Columns: TypeAlias = Mapping[str, pl.Series | Sequence[object] | NDArray[np.generic]]


class ArrowTable(Protocol):
    """Anything that exports an Arrow stream, such as ``pyarrow.Table``."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The stream's capsule."""
        ...


Frame: TypeAlias = pl.DataFrame | ArrowTable | Columns
"""What ``predict`` takes: a Polars frame, an Arrow table, or a mapping of column names to arrays."""


def as_frame(frame: Frame) -> pl.DataFrame:
    """A Polars frame of whatever ``predict`` takes.

    Raises
    ------
    InvalidInput
        It is none of those, or its columns differ in length.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    try:
        if isinstance(frame, Mapping):
            return pl.DataFrame({name: _series(name, values) for name, values in frame.items()})
        if isinstance(frame, pa.RecordBatch):
            frame = pa.Table.from_batches([frame])
        return pl.DataFrame(frame)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise InvalidInput(f"the rows are no frame ({error}); pass a Polars frame, an Arrow table or a dict") from error


def _series(name: str, values: pl.Series | Sequence[object] | NDArray[np.generic]) -> pl.Series:
    return values.alias(name) if isinstance(values, pl.Series) else pl.Series(name, values)
