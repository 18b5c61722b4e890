"""Class probabilities of support vector machines: Platt's sigmoid, then pairwise coupling, both as libsvm has them.

Sources: Platt, "Probabilistic outputs for support vector machines" (1999), in the form of Lin, Lin and Weng (2007);
Wu, Lin and Weng, "Probability estimates for multi-class classification by pairwise coupling" (JMLR 5, 2004), second
method. libsvm iterates until the error is below 0.005 / classes, for two classes as well, so its steps are repeated
one by one: a better solution would be another answer.
"""

import math

from shoal.kernels.compile import exact
from shoal.types import Floats

SMALLEST = 1e-7
TOLERANCE = 0.005
FEWEST_ROUNDS = 100


def workspace(classes: int) -> int:
    """How many numbers :func:`couple` works on: two matrices and two vectors."""
    return 2 * classes * (classes + 1)


@exact
def _sigmoid(decision: float, a: float, b: float) -> float:
    z = decision * a + b
    if z >= 0.0:
        probability = math.exp(-z) / (1.0 + math.exp(-z))
    else:
        probability = 1.0 / (1.0 + math.exp(z))
    return min(max(probability, SMALLEST), 1.0 - SMALLEST)


@exact
def _pairwise(classes: int, decisions: Floats, row: int, platt: Floats, model: int, work: Floats) -> None:
    """Fill the first matrix of the workspace: [i, j] is the probability of class i given class i or j."""
    pair = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            probability = _sigmoid(decisions[pair, row], platt[model, pair, 0], platt[model, pair, 1])
            work[i * classes + j] = probability
            work[j * classes + i] = 1.0 - probability
            pair += 1


@exact
def _quadratic(classes: int, work: Floats) -> None:
    """Fill the second matrix: the quadratic form that the probabilities minimise; and start from equal shares."""
    q = classes * classes
    for t in range(classes):
        work[2 * q + t] = 1.0 / classes
        diagonal = 0.0
        for j in range(classes):
            if j != t:
                other = work[j * classes + t]
                diagonal += other * other
                work[q + t * classes + j] = -other * work[t * classes + j]
        work[q + t * classes + t] = diagonal


@exact
def _gradient(classes: int, work: Floats) -> tuple[float, float]:
    """Fill the gradient; return the quadratic form's value and the largest error."""
    q = classes * classes
    p = 2 * q
    g = p + classes
    value = 0.0
    for t in range(classes):
        total = 0.0
        for j in range(classes):
            total += work[q + t * classes + j] * work[p + j]
        work[g + t] = total
        value += work[p + t] * total
    worst = 0.0
    for t in range(classes):
        error = abs(work[g + t] - value)
        if error > worst:
            worst = error
    return value, worst


@exact
def couple(
    classes: int, decisions: Floats, row: int, platt: Floats, model: int, work: Floats, probabilities: Floats
) -> None:
    """Probabilities of one row.

    Parameters
    ----------
    classes : int
        How many.
    decisions : ndarray of float64, shape (classes * (classes - 1) / 2, rows)
        libsvm's decision values: the pair (i, j) is positive for class i.
    row : int
        Which row.
    platt : ndarray of float64, shape (models, pairs, 2)
        The sigmoids' slopes and offsets.
    model : int
        Which model.
    work : ndarray of float64
        :func:`workspace` numbers.
    probabilities : ndarray of float64, shape (classes,)
        Where the answer goes.
    """
    _pairwise(classes, decisions, row, platt, model, work)
    _quadratic(classes, work)
    q = classes * classes
    p = 2 * q
    g = p + classes
    for _ in range(max(FEWEST_ROUNDS, classes)):
        value, worst = _gradient(classes, work)
        if worst < TOLERANCE / classes:
            break
        for t in range(classes):
            diagonal = work[q + t * classes + t]
            step = (value - work[g + t]) / diagonal
            work[p + t] += step
            value = (value + step * (step * diagonal + 2.0 * work[g + t])) / (1.0 + step) / (1.0 + step)
            for j in range(classes):
                work[g + j] = (work[g + j] + step * work[q + t * classes + j]) / (1.0 + step)
                work[p + j] /= 1.0 + step
    for t in range(classes):
        probabilities[t] = work[p + t]
