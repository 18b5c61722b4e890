"""What became of rows, in one pass over them: their outcomes, and how many each model has of each."""

# mypy: allow-untyped-defs, allow-untyped-calls
import numpy as np
from numba import types as nt
from numpy.typing import NDArray

from shoal.kernels.compile import F64_1, I64_1, U8_1, array, kernel
from shoal.types import Bytes, Integers, Outcome, Reason

SCORED, FALLBACK, NO_MODEL = int(Outcome.SCORED), int(Outcome.FALLBACK), int(Outcome.NO_MODEL)
INVALID, FAILED = int(Outcome.INVALID), int(Outcome.FAILED)
NOT_FINITE_ANSWER = int(Reason.NOT_FINITE_ANSWER)

#: As long as a count per model and outcome takes at most so many times the rows, counting beats sorting.
DENSE = 4

_U8_OUT = array(nt.uint8, 1, writable=True)


@kernel(array(nt.int8, 1), F64_1, _U8_OUT, _U8_OUT)
def settle(levels, values, reasons, outcomes):
    """Fill in the outcome of each row, and the reason where its answer is no finite number.

    Parameters
    ----------
    levels : ndarray of int8, shape (rows,)
        Position of the answering level, -1 where none.
    values : ndarray of float64, shape (rows,) or (0,)
        Answers, where they are numbers; those of rows without a level or with a reason are not read.
    reasons : ndarray of uint8, shape (rows,)
        A :class:`~shoal.types.Reason` each; written to as well.
    outcomes : ndarray of uint8, shape (rows,)
        An :class:`~shoal.types.Outcome` each, to be written.
    """
    for i in range(levels.size):
        outcome = NO_MODEL
        if levels[i] >= 0:
            outcome = SCORED if levels[i] == 0 else FALLBACK
            if values.size and reasons[i] == 0 and not abs(values[i]) < np.inf:
                reasons[i] = NOT_FINITE_ANSWER
        if reasons[i]:
            outcome = FAILED if reasons[i] == NOT_FINITE_ANSWER else INVALID
        outcomes[i] = outcome


@kernel(I64_1, U8_1, array(nt.int64, 2, writable=True))
def _count(models, outcomes, rows):
    for i in range(models.size):
        rows[models[i] + 1, outcomes[i]] += 1


def tally(models: Integers, outcomes: Bytes, count: int) -> tuple[Integers, Bytes, Integers]:
    """Rows per model and outcome.

    Parameters
    ----------
    models : ndarray of int64, shape (rows,)
        Which model answered, -1 where none did.
    outcomes : ndarray of uint8, shape (rows,)
        An :class:`~shoal.types.Outcome` each.
    count : int
        How many models there are.

    Returns
    -------
    models, outcomes, rows : ndarray, shape (pairs that occur,)
        Ascending by model, then outcome.
    """
    width = len(Outcome)
    if (count + 1) * width > DENSE * len(models):
        codes, rows = np.unique((models + 1) * width + outcomes, return_counts=True)
    else:
        table = np.zeros((count + 1, width), dtype=np.int64)
        _count(models, outcomes, table)
        codes = np.flatnonzero(table)
        rows = table.reshape(-1)[codes]
    found: NDArray[np.uint8] = (codes % width).astype(np.uint8)
    return codes // width - 1, found, rows
