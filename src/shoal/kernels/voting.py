"""From one decision value per pair of classes to a label and probabilities, as libsvm and scikit-learn do it."""

from shoal.kernels.compile import exact
from shoal.kernels.platt import couple
from shoal.types import Bytes, Floats, Indices


@exact
def elect(classes: int, decisions: Floats, row: int, break_ties: bool, work: Floats) -> int:
    """The class with most votes, the first of several; or, with ``break_ties``, the one with the best one-vs-rest sum.

    libsvm gives a decision value of 0 to the pair's second class, scikit-learn's one-vs-rest sum to its first.
    """
    for c in range(2 * classes):
        work[c] = 0.0
    pair = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            decision = decisions[pair, row]
            for_first = not decision < 0.0 if break_ties else decision > 0.0
            work[i if for_first else j] += 1.0
            work[classes + i] += decision
            work[classes + j] -= decision
            pair += 1
    best = 0
    for c in range(classes):
        if break_ties:
            confidence = work[classes + c]
            work[c] += confidence / (3.0 * (abs(confidence) + 1.0))
        if work[c] > work[best]:
            best = c
    return best


@exact
def classify(
    start: int, n: int, decisions: Floats, platt: Floats, model: int, break_ties: bool, classes: Indices,
    class_map: Indices, work: Floats, labels: Indices, probabilities: Floats, reasons: Bytes,
) -> None:  # fmt: skip
    """Turn decision values into labels and, if the model has sigmoids, probabilities."""
    count = classes.shape[1]
    shares = work[:count]
    for row in range(n):
        if reasons[start + row] != 0:
            continue
        winner = elect(count, decisions, row, break_ties, work)
        labels[start + row] = class_map[classes[model, winner]]
        if platt.shape[0] > 0:
            couple(count, decisions, row, platt, model, work[count:], shares)
            for c in range(count):
                probabilities[start + row, class_map[classes[model, c]]] = shares[c]
