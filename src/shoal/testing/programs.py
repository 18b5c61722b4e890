"""Running column-transform programs alone: compiled as kernels do, and in plain NumPy as the truth for that."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shoal.families.contract import ModelBlock
from shoal.kernels.compile import ANSWERS, F64_1, F64_2, I32_2, I64, array, kernel
from shoal.kernels.program import Op
from shoal.kernels.transform import CHUNK, Culprits, apply
from shoal.types import Bytes, Floats, Indices

Step = NDArray[np.int32]


def compiled_inputs(block: ModelBlock, model: int, X: Floats) -> tuple[Floats, Bytes, Culprits]:
    """Run a block's program for one of its models, compiled.

    Parameters
    ----------
    block : ModelBlock
        The block, which must be valid.
    model : int
        Which of its models.
    X : ndarray of float64, shape (features, rows)
        Raw features.

    Returns
    -------
    inputs : ndarray of float64, shape (layout.width, rows)
        The final estimator's inputs; those of marked rows hold anything.
    reasons, culprits : ndarray of uint8 and int16, shape (rows,)
        The marks.
    """
    layout = block.layout
    inputs = np.zeros((layout.width, X.shape[1]))
    reasons, culprits = np.zeros(X.shape[1], dtype=np.uint8), np.zeros(X.shape[1], dtype=np.int16)
    _run(X, block.program, block.transform[model], layout.scratch, layout.first, inputs, reasons, culprits)
    return inputs, reasons, culprits


@kernel(F64_2, I32_2, F64_1, I64, I64, array(F64_2.dtype, 2, writable=True), *ANSWERS[3:])
def _run(
    X: Floats, program: Indices, numbers: Floats, scratch: int, first: int, inputs: Floats, reasons: Bytes,
    culprits: Culprits,
) -> None:  # fmt: skip
    z = np.zeros((scratch, CHUNK))
    for start in range(0, X.shape[1], CHUNK):
        n = min(CHUNK, X.shape[1] - start)
        apply(X, start, n, program, numbers, z, reasons, culprits)
        inputs[:, start : start + n] = z[first : first + inputs.shape[0], :n]


def reference_inputs(block: ModelBlock, model: int, X: Floats) -> Floats:
    """Run a block's program for one of its models.

    Parameters
    ----------
    block : ModelBlock
        The block.
    model : int
        Which of its models.
    X : ndarray of float64, shape (features, rows)
        Raw features.

    Returns
    -------
    ndarray of float64, shape (layout.width, rows)
        The final estimator's inputs. Rows that the compiled stage would mark hold anything.
    """
    layout = block.layout
    z = np.zeros((layout.scratch, X.shape[1]))
    numbers = block.transform[model]
    with np.errstate(all="ignore"):
        for step in block.program:
            op = Op(int(step[0]))
            z[step[2]] = X[step[1]] if op is Op.LOAD else z[step[2]]
            if op in _STEPS:
                _STEPS[op](z, step, numbers[step[4] :])
    return np.ascontiguousarray(z[layout.first : layout.first + layout.width])


def _calculate(operation: Callable[[Floats, np.float64], Floats]) -> Callable[[Floats, Step, Floats], None]:
    def run(z: Floats, step: Step, numbers: Floats) -> None:
        z[step[2]] = operation(z[step[2]], numbers[0])

    return run


def _copy(z: Floats, step: Step, numbers: Floats) -> None:
    z[step[2]] = z[step[1]]


def _replace(z: Floats, step: Step, numbers: Floats) -> None:
    z[step[2], z[step[2]] == numbers[0]] = numbers[1]


def _clip(z: Floats, step: Step, numbers: Floats) -> None:
    z[step[2]] = np.clip(z[step[2]], numbers[0], numbers[1])


def _indicate(z: Floats, step: Step, numbers: Floats) -> None:
    z[step[2]] = np.isnan(z[step[1]])


def _found(z: Floats, step: Step, numbers: Floats) -> Floats:
    """The column of every row's category."""
    count = step[5]
    values, columns = numbers[1 : 1 + count], numbers[1 + count : 1 + 2 * count]
    wanted = np.where(np.isnan(z[step[1]]), np.inf, z[step[1]])
    matches = values[:, None] == wanted
    found: Floats = np.where(matches.any(axis=0), columns[matches.argmax(axis=0)], numbers[0])
    return found


def _one_hot(z: Floats, step: Step, numbers: Floats) -> None:
    found = _found(z, step, numbers)
    z[step[2] : step[2] + step[3]] = found == np.arange(step[3])[:, None]


def _encode(z: Floats, step: Step, numbers: Floats) -> None:
    found = _found(z, step, numbers)
    z[step[2]] = np.where(found < 0, np.nan, found)


def _float32(z: Floats, step: Step, numbers: Floats) -> None:
    z[step[2]] = z[step[2]].astype(np.float32)


_STEPS: dict[Op, Callable[[Floats, Step, Floats], None]] = {
    Op.COPY: _copy,
    Op.IMPUTE: _calculate(lambda column, number: np.where(np.isnan(column), number, column)),
    Op.REPLACE: _replace,
    Op.SUBTRACT: _calculate(np.subtract),
    Op.DIVIDE: _calculate(np.divide),
    Op.MULTIPLY: _calculate(np.multiply),
    Op.ADD: _calculate(np.add),
    Op.CLIP: _clip,
    Op.INDICATOR: _indicate,
    Op.ONEHOT: _one_hot,
    Op.ENCODE: _encode,
    Op.FLOAT32: _float32,
}
