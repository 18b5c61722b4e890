"""A frame's feature columns as the float64 arrays that kernels read."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.types import Feature, FeatureKind, Floats

Flags = NDArray[np.bool_]

#: A text that is in no model's list of categories.
UNKNOWN = -1.0

_TEXTS = (pl.String, pl.Categorical, pl.Enum)


class FeatureColumns:
    """The feature columns of a frame, converted when first asked for.

    Parameters
    ----------
    frame : polars.DataFrame
        The rows.
    features : sequence of Feature
        The fleet's input schema.

    Raises
    ------
    InvalidInput
        A column is missing or of a type that cannot be a feature.
    """

    def __init__(self, frame: pl.DataFrame, features: Sequence[Feature]) -> None:
        present = frame.columns
        missing = [feature.name for feature in features if feature.name not in present]
        if missing:
            raise InvalidInput(f"the input lacks the feature column(s) {missing}; it has {present}")
        self._columns = {feature.name: frame.get_column(feature.name) for feature in features}
        self._numbers: dict[str, tuple[Floats, Flags | None]] = {}
        for feature in features:
            _refuse_odd_type(feature, self._columns[feature.name].dtype)

    def numbers(self, name: str) -> tuple[Floats, Flags | None]:
        """A numeric feature.

        Returns
        -------
        values : ndarray of float64, shape (rows,)
            NaN where missing or not a number.
        wrong : ndarray of bool, shape (rows,), or None
            Where there is something, but no number; None if nowhere.
        """
        if name not in self._numbers:
            self._numbers[name] = _to_numbers(self._columns[name])
        return self._numbers[name]

    def codes(self, name: str, categories: Sequence[str]) -> Floats:
        """A category feature as positions in ``categories``: NaN where missing, :data:`UNKNOWN` where not listed."""
        texts = self._columns[name].cast(pl.String)
        positions = pl.Series(range(len(categories)), dtype=pl.Float64)
        listed = pl.Series(list(categories), dtype=pl.String)
        codes = texts.replace_strict(listed, positions, default=UNKNOWN, return_dtype=pl.Float64)
        # replace_strict sends null to the default as well
        return pl.select(pl.when(texts.is_null()).then(None).otherwise(codes)).to_series().to_numpy()


def _refuse_odd_type(feature: Feature, dtype: pl.DataType) -> None:
    number = dtype.is_numeric() or dtype in (pl.Boolean, pl.Null) or isinstance(dtype, pl.Decimal)
    if number or dtype in _TEXTS:
        return
    wanted = "a number" if feature.kind is FeatureKind.NUMERIC else "a text"
    raise InvalidInput(f"feature {feature.name!r} is {dtype}, but the fleet takes {wanted}: convert it before scoring")


def _to_numbers(column: pl.Series) -> tuple[Floats, Flags | None]:
    if column.dtype == pl.Float64:
        return _contiguous(column), None
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    converted = column.cast(pl.Float64, strict=False)
    wrong = None
    if column.dtype == pl.String:
        bad = (converted.is_null() & column.is_not_null()).to_numpy()
        wrong = bad if bad.any() else None
    return _contiguous(converted), wrong


def _contiguous(column: pl.Series) -> Floats:
    values: Floats = np.ascontiguousarray(column.to_numpy())
    return values
