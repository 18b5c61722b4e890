"""The columns that rows are scored by, and features as the float64 arrays that kernels read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.table.texts import read_numbers
from shoal.types import Feature, FeatureKind, Floats

Flags = NDArray[np.bool_]

#: A text that is in no model's list of categories.
UNKNOWN = -1.0

_TEXTS = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowColumns:
    """The columns that rows are scored by.

    Attributes
    ----------
    height : int
        How many rows there are.
    columns : mapping of str to polars.Series or ndarray of float64
        By name; a numeric feature may be an array already, NaN where it is missing.
    wrong : mapping of str to ndarray of bool
        Rows of columns that were converted before which had something that could not be; it is missing in the column.
    """

    height: int
    columns: "Mapping[str, pl.Series | Floats]"
    wrong: "Mapping[str, Flags]" = field(default_factory=dict)

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "RowColumns":
        """The columns of a frame."""
        return cls(height=frame.height, columns={series.name: series for series in frame.iter_columns()})

    def series(self, name: str) -> pl.Series:
        """A column, e.g. one of the key."""
        column = self.columns[name]
        return pl.Series(name, column) if isinstance(column, np.ndarray) else column

    def require(self, names: Iterable[str], what: str) -> None:
        """Refuse rows that lack a column.

        Raises
        ------
        InvalidInput
            Names those that are missing, and those that there are.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise InvalidInput(f"the input lacks the {what} column(s) {missing}; it has {list(self.columns)}")


class FeatureColumns:
    """The feature columns of rows, converted when first asked for.

    Parameters
    ----------
    rows : RowColumns
        The rows.
    features : sequence of Feature
        The fleet's input schema.

    Raises
    ------
    InvalidInput
        A column is missing or of a type that cannot be a feature.
    """

    def __init__(self, rows: RowColumns, features: Sequence[Feature]) -> None:
        rows.require([feature.name for feature in features], "feature")
        self._columns = rows.columns
        self._numbers: dict[str, tuple[Floats, Flags | None]] = {}
        for feature in features:
            column = rows.columns[feature.name]
            if isinstance(column, np.ndarray):
                self._numbers[feature.name] = column, rows.wrong.get(feature.name)
            else:
                require_feature(feature, column.dtype)

    def numbers(self, name: str) -> tuple[Floats, Flags | None]:
        """A numeric feature.

        Returns
        -------
        values : ndarray of float64, shape (rows,)
            NaN where missing or not a number.
        wrong : ndarray of bool, shape (rows,), or None
            Where there is something, but no number; None if nowhere.
        """
        found = self._numbers.get(name)
        if found is None:
            column = self._columns[name]
            assert isinstance(column, pl.Series)  # arrays are there from the beginning
            found = self._numbers[name] = to_numbers(column)
        return found

    def codes(self, name: str, categories: Sequence[str]) -> Floats:
        """A category feature as positions in ``categories``: NaN where missing, :data:`UNKNOWN` where not listed."""
        column = self._columns[name]
        assert isinstance(column, pl.Series)
        texts = to_texts(column)
        positions = pl.Series(range(len(categories)), dtype=pl.Float64)
        listed = pl.Series(list(categories), dtype=pl.String)
        codes = texts.replace_strict(listed, positions, default=UNKNOWN, return_dtype=pl.Float64)
        # replace_strict sends null to the default as well
        return pl.select(pl.when(texts.is_null()).then(None).otherwise(codes)).to_series().to_numpy()


def require_feature(feature: Feature, dtype: pl.DataType) -> None:
    """Refuse a column that cannot be a feature.

    Raises
    ------
    InvalidInput
        Says what its type is, and what it should be.
    """
    number = dtype.is_numeric() or dtype in (pl.Boolean, pl.Null) or isinstance(dtype, pl.Decimal)
    if number or dtype in _TEXTS:
        return
    wanted = "a number" if feature.kind is FeatureKind.NUMERIC else "a text"
    raise InvalidInput(f"feature {feature.name!r} is {dtype}, but the fleet takes {wanted}: convert it before scoring")


def to_texts(column: pl.Series) -> pl.Series:
    """A category feature's values as the texts that categories are."""
    return column.cast(pl.String)


def to_numbers(column: pl.Series) -> tuple[Floats, Flags | None]:
    """A numeric feature's values as float64; texts as :func:`shoal.table.texts.numbers` reads them.

    Returns
    -------
    values : ndarray of float64, shape (rows,)
        NaN where missing or not a number.
    wrong : ndarray of bool, shape (rows,), or None
        Where there is a text that is no number; None if nowhere.
    """
    if column.dtype == pl.Float64:
        return _contiguous(column), None
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return _contiguous(column.cast(pl.Float64, strict=False)), None
    converted = read_numbers(column)
    wrong = None
    if converted.null_count() != column.null_count():
        bad = (converted.is_null() & column.is_not_null()).to_numpy()
        wrong = bad if bad.any() else None
    return _contiguous(converted), wrong


def _contiguous(column: pl.Series) -> Floats:
    values: Floats = np.ascontiguousarray(column.to_numpy())
    return values
