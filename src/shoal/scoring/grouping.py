"""Rows grouped by model, and the units of work cut from them."""

from dataclasses import dataclass

# mypy: allow-untyped-defs, allow-untyped-calls
import numpy as np
from numba import types as nt

from shoal.kernels.compile import F64_1, I64, I64_1, array, kernel
from shoal.types import Integers

#: A model with more rows than this is shared by threads. No answer depends on it.
UNIT_ROWS = 2048

#: From this many rows per model on, counting beats comparing.
DENSE = 4

_I64_OUT = array(nt.int64, 1, writable=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Rows ordered by their model.

    Attributes
    ----------
    order : ndarray of int64, shape (answered rows,)
        Row numbers; rows of one model are neighbours and keep their order.
    models : ndarray of int64, shape (groups,)
        Model number of each group, ascending.
    starts : ndarray of int64, shape (groups + 1,)
        Group ``g`` is ``order[starts[g]:starts[g + 1]]``.
    """

    order: Integers
    models: Integers
    starts: Integers


def group(models: Integers, count: int) -> Groups:
    """Group rows by model.

    Parameters
    ----------
    models : ndarray of int64, shape (rows,)
        Model number of each row; negative ones are left out.
    count : int
        One more than the largest model number there can be.
    """
    if count > DENSE * len(models):
        return _group_sparse(models)
    starts = np.zeros(count + 1, dtype=np.int64)
    order = np.empty(len(models), dtype=np.int64)
    sort_by_model(models, count, order, starts)
    used = np.flatnonzero(np.diff(starts))
    return Groups(order=order[: starts[-1]], models=used, starts=np.append(starts[used], starts[-1]))


def _group_sparse(models: Integers) -> Groups:
    """Few rows of many models: no work that grows with the number of models."""
    order = np.argsort(models, kind="stable")
    ordered = models[order]
    first = int(np.searchsorted(ordered, 0))
    order, ordered = order[first:], ordered[first:]
    begins = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    return Groups(order=order, models=ordered[starts], starts=np.append(starts, len(order)))


def units_of(groups: Groups, first_group: int, last_group: int, first_model: int) -> Integers:
    """Units of work for the groups of one block.

    Parameters
    ----------
    groups : Groups
        All groups.
    first_group, last_group : int
        The block's.
    first_model : int
        Number of the block's first model.

    Returns
    -------
    ndarray of int64, shape (units, 3)
        ``(model within the block, start, stop)``, counted from the block's first row.
    """
    models = groups.models[first_group:last_group] - first_model
    bounds = groups.starts[first_group : last_group + 1] - groups.starts[first_group]
    sizes = bounds[1:] - bounds[:-1]
    if sizes.max(initial=0) <= UNIT_ROWS:
        return _table(models, bounds[:-1], bounds[1:])
    pieces = -(-sizes // UNIT_ROWS)
    owner = np.repeat(np.arange(len(models)), pieces)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = bounds[owner] + within * UNIT_ROWS
    stop = np.minimum(start + UNIT_ROWS, bounds[owner + 1])
    return _table(models[owner], start, stop)


def _table(models: Integers, starts: Integers, stops: Integers) -> Integers:
    units = np.empty((len(models), 3), dtype=np.int64)
    units[:, 0], units[:, 1], units[:, 2] = models, starts, stops
    return units


@kernel(I64_1, I64, _I64_OUT, _I64_OUT)
def sort_by_model(models, count, order, starts):
    """Stable counting sort: rows of model ``m`` become ``order[starts[m]:starts[m + 1]]``; ``starts`` comes zeroed."""
    for i in range(models.size):
        if models[i] >= 0:
            starts[models[i] + 1] += 1
    for m in range(count):
        starts[m + 1] += starts[m]
    for i in range(models.size):
        if models[i] >= 0:
            order[starts[models[i]]] = i
            starts[models[i]] += 1
    for m in range(count, 0, -1):
        starts[m] = starts[m - 1]
    starts[0] = 0


@kernel(F64_1, I64_1, array(nt.float64, 1, writable=True))
def gather(source, rows, target):
    """``target[i] = source[rows[i]]``."""
    for i in range(rows.size):
        target[i] = source[rows[i]]


@kernel(F64_1, I64_1, array(nt.float64, 1, writable=True))
def scatter(source, rows, target):
    """``target[rows[i]] = source[i]``."""
    for i in range(rows.size):
        target[rows[i]] = source[i]


@kernel(array(nt.int32, 1), I64_1, array(nt.int32, 1, writable=True))
def scatter_labels(source, rows, target):
    """:func:`scatter` for int32."""
    for i in range(rows.size):
        target[rows[i]] = source[i]


@kernel(array(nt.float64, 2), I64_1, array(nt.float64, 2, writable=True))
def scatter_rows(source, rows, target):
    """:func:`scatter` for rows of a matrix."""
    for i in range(rows.size):
        for k in range(source.shape[1]):
            target[rows[i], k] = source[i, k]
