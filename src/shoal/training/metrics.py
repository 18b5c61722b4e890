"""Figures of merit, in plain NumPy: a segment has few rows, and checking its arguments would cost more than the sum.

They equal scikit-learn's functions of the same name (``f1`` is the macro average, ``auc`` of several classes the mean
over one against the rest). Models answer with an array of shape ``(rows, width)``: a prediction, a decision function
or the position of a label in one column, or probabilities in one column per label.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.types import Floats, Task


class Answer(enum.Enum):
    """What a metric looks at."""

    VALUES = enum.auto()
    LABELS = enum.auto()
    PROBABILITIES = enum.auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A figure of merit.

    Attributes
    ----------
    name : str
        As in a spec.
    tasks : frozenset of Task
        Which it measures.
    answer : Answer
        What models have to answer with.
    more_is_better : bool
        Whether a larger figure is the better one.
    function : callable
        From the truth (values, or positions of labels), shape (rows,), and answers, shape (rows, width), to the
        figure; NaN where it is not defined.
    """

    name: str
    tasks: frozenset[Task]
    answer: Answer
    more_is_better: bool
    function: Callable[[Floats, Floats], float]

    def __call__(self, truth: Floats, answers: Floats) -> float:
        """The figure; NaN without rows."""
        return float(self.function(truth, answers)) if len(truth) else float("nan")

    def gain(self, own: float, other: float) -> float:
        """By how much ``own`` is better than ``other``: a share of the other's error, or units where more is better."""
        if self.more_is_better:
            return own - other
        return (other - own) / other if other > 0 else other - own

    def best(self, figures: Floats) -> int:
        """Position of the best of some figures, the first of equals; -1 where none is a number."""
        signed = np.where(np.isnan(figures), -np.inf, figures if self.more_is_better else -figures)
        return int(np.argmax(signed)) if len(signed) and np.isfinite(signed).any() else -1


def default_metric(task: Task) -> Metric:
    """What decides where a spec names no metric."""
    return METRICS[{Task.REGRESSION: "mae", Task.CLASSIFICATION: "log_loss", Task.ANOMALY: "flagged"}[task]]


def _mae(truth: Floats, answers: Floats) -> float:
    return float(np.abs(truth - answers[:, 0]).mean())


def _rmse(truth: Floats, answers: Floats) -> float:
    return float(np.sqrt(np.square(truth - answers[:, 0]).mean()))


def _mape(truth: Floats, answers: Floats) -> float:
    size = np.maximum(np.abs(truth), np.finfo(np.float64).eps)
    return float((np.abs(truth - answers[:, 0]) / size).mean())


def _r2(truth: Floats, answers: Floats) -> float:
    if len(truth) < 2:
        return float("nan")
    left = float(np.square(truth - answers[:, 0]).sum())
    total = float(np.square(truth - truth.mean()).sum())
    if total == 0:
        return 1.0 if left == 0 else 0.0
    return 1 - left / total


def _accuracy(truth: Floats, answers: Floats) -> float:
    return float((truth == answers[:, 0]).mean())


def _f1(truth: Floats, answers: Floats) -> float:
    known, found = truth.astype(np.int64), answers[:, 0].astype(np.int64)
    size = int(max(known.max(), found.max())) + 1
    hits = np.bincount(known[known == found], minlength=size)
    total = np.bincount(known, minlength=size) + np.bincount(found, minlength=size)
    return float((2 * hits[total > 0] / total[total > 0]).mean())


def _log_loss(truth: Floats, answers: Floats) -> float:
    shares = np.clip(answers, np.finfo(np.float64).eps, 1.0)
    shares = shares / shares.sum(axis=1, keepdims=True)
    return float(-np.log(shares[np.arange(len(truth)), truth.astype(np.int64)]).mean())


def _auc(truth: Floats, answers: Floats) -> float:
    known = truth.astype(np.int64)
    labels = range(1, 2) if answers.shape[1] == 2 else range(answers.shape[1])
    areas = [_area(known == label, answers[:, label]) for label in labels]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def _area(positive: NDArray[np.bool_], shares: Floats) -> float:
    """Area under the ROC curve, from the ranks of the positives (Mann and Whitney); ties count half."""
    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs:
        return float("nan")
    _, place, counts = np.unique(shares, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[place[positive]].sum() - ups * (ups + 1) / 2) / (ups * downs))


def _flagged(truth: Floats, answers: Floats) -> float:
    return float((answers[:, 0] < 0).mean())


def _mean_decision(truth: Floats, answers: Floats) -> float:
    return float(answers[:, 0].mean())


_REGRESSION = frozenset({Task.REGRESSION})
_CLASSIFICATION = frozenset({Task.CLASSIFICATION})
_ANOMALY = frozenset({Task.ANOMALY})

METRICS: Mapping[str, Metric] = {
    name: Metric(name=name, tasks=tasks, answer=answer, more_is_better=more, function=function)
    for name, tasks, answer, more, function in (
        ("mae", _REGRESSION, Answer.VALUES, False, _mae),
        ("rmse", _REGRESSION, Answer.VALUES, False, _rmse),
        ("mape", _REGRESSION, Answer.VALUES, False, _mape),
        ("r2", _REGRESSION, Answer.VALUES, True, _r2),
        ("accuracy", _CLASSIFICATION, Answer.LABELS, True, _accuracy),
        ("f1", _CLASSIFICATION, Answer.LABELS, True, _f1),
        ("log_loss", _CLASSIFICATION, Answer.PROBABILITIES, False, _log_loss),
        ("auc", _CLASSIFICATION, Answer.PROBABILITIES, True, _auc),
        ("flagged", _ANOMALY, Answer.VALUES, False, _flagged),
        ("mean_decision", _ANOMALY, Answer.VALUES, True, _mean_decision),
    )
}
"""All metrics by name. ``flagged``: share of held-out rows called anomalies. ``mean_decision``: their mean score."""
