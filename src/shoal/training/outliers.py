"""Outlying values, segment by segment: found by robust statistics of the training rows, then dropped or clipped.

Held-out rows are measured on as they are (leaving out what is hard to predict would flatter every model); the limits
apply to them only when a kept model is fitted once more with all rows. The limits are those of the row's own segment at
every level: a reading that is ordinary for one sensor may be far off for another.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidSpec
from shoal.training.spec import Outliers, TrainSpec
from shoal.training.splitting import Role, Roles

#: Makes the median absolute deviation estimate the standard deviation of a normal distribution: 1 / Phi^-1(3/4).
_NORMAL = 1.4826022185056018


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """Rows as models are fitted on them.

    Attributes
    ----------
    frame : polars.DataFrame
        The rows, clipped where the rule says so.
    outlying : ndarray of bool, shape (rows,)
        Rows with a value outside the limits.
    dropped : ndarray of bool, shape (rows,)
        Those of them that no model is fitted on; none when they are clipped.
    """

    frame: pl.DataFrame
    outlying: NDArray[np.bool_]
    dropped: NDArray[np.bool_]


def clean(frame: pl.DataFrame, roles: Roles, spec: TrainSpec) -> Cleaned:
    """Apply a spec's rule for outliers.

    Where more than half of a segment's values are one and the same, nothing says how far is too far, and all stay.

    Parameters
    ----------
    frame : polars.DataFrame
        The usable rows.
    roles : ndarray of uint8, shape (rows,)
        Limits come from the training rows.
    spec : TrainSpec
        Holds the rule.

    Raises
    ------
    InvalidSpec
        The rule looks at a column that holds no numbers.
    """
    nothing = np.zeros(frame.height, dtype=np.bool_)
    rule = spec.outliers
    if rule is None:
        return Cleaned(frame=frame, outlying=nothing, dropped=nothing)
    columns = _columns(frame, rule, spec)
    limits = _limits(frame, pl.Series(roles == Role.TRAIN), columns, rule, spec.keys)
    outside = pl.any_horizontal(
        (pl.col(name) < limits[f"low {i}"]) | (pl.col(name) > limits[f"high {i}"]) for i, name in enumerate(columns)
    )
    outlying = frame.select(outside.fill_null(False)).to_series().to_numpy()
    if rule.action == "drop":
        return Cleaned(frame=frame, outlying=outlying, dropped=outlying)
    clipped = frame.with_columns(
        pl.col(name).clip(limits[f"low {i}"], limits[f"high {i}"]) for i, name in enumerate(columns)
    )
    return Cleaned(frame=clipped, outlying=outlying, dropped=nothing)


def _columns(frame: pl.DataFrame, rule: Outliers, spec: TrainSpec) -> tuple[str, ...]:
    if not rule.columns:
        numbers = tuple(name for name in spec.features if frame.schema[name] == pl.Float64)
        return (spec.target,) if spec.target and frame.schema[spec.target] == pl.Float64 else numbers
    for name in rule.columns:
        if frame.schema[name] != pl.Float64:
            raise InvalidSpec(f"field 'outliers.columns': {name!r} holds no numbers")
    return rule.columns


def _limits(
    frame: pl.DataFrame, training: pl.Series, columns: tuple[str, ...], rule: Outliers, keys: tuple[str, ...]
) -> pl.DataFrame:
    """The limits that apply to each row, in columns ``low i`` and ``high i``; infinite where there are none."""
    groups = [pl.col(name).alias(f"key {j}") for j, name in enumerate(keys)] or [pl.lit(0).alias("key 0")]
    fitted = [pl.when(training).then(pl.col(name)).alias(f"value {i}") for i, name in enumerate(columns)]
    values = frame.select(*fitted, *groups)
    by = [name for name in values.columns if name.startswith("key")]
    borders = [_borders(pl.col(f"value {i}"), rule) for i in range(len(columns))]
    return values.select(
        expression
        for i, (low, high) in enumerate(borders)
        for expression in (
            low.over(by).fill_null(-np.inf).alias(f"low {i}"),
            high.over(by).fill_null(np.inf).alias(f"high {i}"),
        )
    )


def _borders(values: pl.Expr, rule: Outliers) -> tuple[pl.Expr, pl.Expr]:
    if rule.rule == "mad":
        low = high = values.median()
        spread = (values - values.median()).abs().median() * _NORMAL
    else:
        low, high = values.quantile(0.25, "linear"), values.quantile(0.75, "linear")
        spread = high - low
    reach = pl.when(spread > 0).then(spread * rule.reach)
    return low - reach, high + reach
