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
    rows = np.flatnonzero(models >= 0)
    order = rows[np.argsort(models[rows], kind="stable")]
    used, first = np.unique(models[order], return_index=True)
    return Groups(order=order, models=used, starts=np.append(first, len(order)).astype(np.int64))


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
    sizes = np.diff(bounds)
    pieces = -(-sizes // UNIT_ROWS)
    if (pieces == 1).all():
        return np.ascontiguousarray(np.stack([models, bounds[:-1], bounds[1:]], axis=1))
    owner = np.repeat(np.arange(len(models)), pieces)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = bounds[owner] + within * UNIT_ROWS
    stop = np.minimum(start + UNIT_ROWS, bounds[owner + 1])
    return np.ascontiguousarray(np.stack([models[owner], start, stop], axis=1))


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
