"""What a worker does with one segment: fit every candidate, measure, decide, pack."""

import hashlib
import importlib
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import UnsupportedEstimator
from shoal.families import pack
from shoal.families.contract import PackedModel
from shoal.training import handover
from shoal.training.candidates import Choice, build, random_parameters
from shoal.training.decision import Decision, KeepRule
from shoal.training.metrics import METRICS, Answer
from shoal.training.splitting import Role
from shoal.types import Feature, Floats, Integers, Label, Task

Features = Floats | pl.DataFrame


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What all segments of one level share.

    Attributes
    ----------
    folder : Path
        Where the rows are, see :mod:`shoal.training.handover`.
    level : int
        Number of the level.
    task : Task
        What models predict.
    features : tuple of Feature
        Their input.
    labels : tuple of Label
        Sorted labels; empty unless the task is classification.
    choices : tuple of Choice
        What to try.
    metric : str
        What decides.
    keeps_always, margin, minimum_validation_rows
        The fields of :class:`shoal.training.decision.KeepRule`.
    refit : bool
        Whether a kept model is fitted once more with the held-out rows.
    maximum_rows : int or None
        A model is fitted on at most so many rows.
    seed : int
        Of the training.
    missing_values : bool
        Whether features may be missing.
    """

    folder: Path
    level: int
    task: Task
    features: tuple[Feature, ...]
    labels: tuple[Label, ...]
    choices: tuple[Choice, ...]
    metric: str
    keeps_always: bool
    margin: float
    minimum_validation_rows: int
    refit: bool
    maximum_rows: int | None
    seed: int
    missing_values: bool

    @property
    def rule(self) -> KeepRule:
        """The rule that decides."""
        return KeepRule(
            metric=METRICS[self.metric],
            always=self.keeps_always,
            margin=self.margin,
            minimum_validation_rows=self.minimum_validation_rows,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One model to be made.

    Attributes
    ----------
    text : str
        Its key as text.
    start, stop : int
        Its rows in the order of the level.
    """

    text: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a worker found out about one segment.

    Attributes
    ----------
    decision : Decision
        ``kept``, ``fallback`` or ``failed``.
    reason : str
        Why.
    choice : int
        Which choice is the best; -1 where none could be fitted.
    figure, fallback_figure : float
        The metric over the held-out rows; NaN where it is not defined.
    rows : int
        Rows that the model was fitted on.
    answers : ndarray of float64, shape (validation rows, width), or None
        What the best choice answers to the held-out rows.
    packed : PackedModel or None
        The model, if it is kept.
    warning : str
        Why other choices could not be fitted, or else the first warning of the fits; empty where there was none.
    """

    decision: Decision
    reason: str
    choice: int = -1
    figure: float = float("nan")
    fallback_figure: float = float("nan")
    rows: int = 0
    answers: Floats | None = None
    packed: PackedModel | None = None
    warning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    """One choice fitted on a segment."""

    choice: int
    estimator: Any
    answers: Floats
    figure: float


def fit_segments(assignment: Assignment) -> Callable[[Segment], Verdict]:
    """Set a worker up; see :class:`shoal.engines.contract.Work`."""
    return Bench(assignment).judge


class Bench:
    """A worker's place: the mapped rows and the unfitted estimators of every choice.

    Parameters
    ----------
    assignment : Assignment
        What to do.
    careful : bool
        Let scikit-learn check parameters and values, which takes longer than fitting a small model.
    """

    def __init__(self, assignment: Assignment, *, careful: bool = False) -> None:
        self.assignment = assignment
        self.rows = handover.read(assignment.folder)
        self.order = handover.read_order(assignment.folder, assignment.level)
        self.rule = assignment.rule
        self.names = [feature.name for feature in assignment.features]
        self.labels = label_array(assignment.labels)
        self.prototypes = [build(choice, assignment.features) for choice in assignment.choices]
        self.random = [random_parameters(prototype) for prototype in self.prototypes]
        importlib.import_module("sklearn").set_config(
            assume_finite=not (careful or assignment.missing_values), skip_parameter_validation=not careful
        )

    def judge(self, segment: Segment) -> Verdict:
        """Fit every choice on a segment, compare the best with the fallback, and pack it if it is kept."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            verdict = self._judge(segment)
        return verdict if verdict.warning or not caught else _with_warning(verdict, caught[0])

    def _judge(self, segment: Segment) -> Verdict:
        mine = self.order[segment.start : segment.stop]
        held = mine[self.rows.roles[mine] == Role.VALIDATION]
        train = self._sample(mine[(self.rows.roles[mine] == Role.TRAIN) & ~self.rows.dropped[mine]], segment)
        best, failures = self._best(segment, train, held)
        if best is None:
            return Verdict(decision=Decision.FAILED, reason="; ".join(failures)[:1000], rows=len(train))
        fallback = self._fallback_figure(held)
        decision, reason = self.rule.decide(best.figure, fallback, len(held))
        packed = None
        if decision is Decision.KEPT:
            estimator = best.estimator
            if self.assignment.refit:
                train = self._sample(mine[(self.rows.roles[mine] != Role.UNUSED) & ~self.rows.dropped[mine]], segment)
                estimator = self.fit(best.choice, train, segment)
            packed = pack(estimator, self.names)
        return Verdict(
            decision=decision,
            reason=reason,
            choice=best.choice,
            figure=best.figure,
            fallback_figure=float("nan") if fallback is None else fallback,
            rows=len(train),
            answers=best.answers,
            packed=packed,
            warning="; ".join(failures)[:1000],
        )

    def _best(self, segment: Segment, train: Integers, held: Integers) -> tuple[_Fit | None, list[str]]:
        """The best choice, the first of equals, and why others could not be fitted."""
        fits: list[_Fit] = []
        failures: list[str] = []
        X, truth = self.rows.measuring.take(held), self.rows.measuring.truth[held]
        for number, choice in enumerate(self.assignment.choices):
            try:
                estimator = self.fit(number, train, segment)
                answers = self.answer(estimator, X) if len(held) else np.empty((0, self.rows.answers.shape[1]))
            except Exception as error:  # noqa: BLE001 - it costs this choice in this segment, and is recorded
                failures.append(f"{choice}: {type(error).__name__}: {_first_line(error)}")
                continue
            figure = self.rule.metric(truth, answers)
            fits.append(_Fit(choice=number, estimator=estimator, answers=answers, figure=figure))
        if not fits:
            return None, failures
        place = self.rule.metric.best(np.array([fit.figure for fit in fits]))
        return fits[max(place, 0)], failures

    def fit(self, choice: int, rows: Integers, segment: Segment) -> Any:
        """Fit a fresh estimator of a choice on rows; the same rows give the same model in any process."""
        estimator = deepcopy(self.prototypes[choice])
        seed = segment_seed(self.assignment.seed, segment.text)
        np.random.seed(seed)  # noqa: NPY002 - what draws from NumPy's global state is repeatable as well
        if self.random[choice]:
            estimator.set_params(**dict.fromkeys(self.random[choice], seed))
        X, truth = self.rows.fitting.take(rows), self.rows.fitting.truth[rows]
        if self.assignment.task is Task.ANOMALY:
            return estimator.fit(X)
        return estimator.fit(X, truth if self.labels is None else self.labels[truth.astype(np.int64)])

    def answer(self, estimator: Any, X: Features) -> Floats:
        """What an estimator answers to rows, as metrics take it.

        Raises
        ------
        UnsupportedEstimator
            The metric looks at something that the estimator does not give.
        """
        kind = self.rule.metric.answer
        if self.assignment.task is Task.ANOMALY:
            return _column(_method(estimator, "decision_function", "a decision function", self.rule)(X))
        if kind is Answer.VALUES:
            return _column(estimator.predict(X))
        assert self.labels is not None
        if kind is Answer.LABELS:
            return _column(np.searchsorted(self.labels, estimator.predict(X)))
        shares = np.asarray(_method(estimator, "predict_proba", "probabilities", self.rule)(X), dtype=np.float64)
        answers = np.zeros((len(shares), len(self.labels)))
        answers[:, np.searchsorted(self.labels, estimator.classes_)] = shares
        return answers

    def _fallback_figure(self, held: Integers) -> float | None:
        answers = self.rows.answers[held]
        if np.isnan(answers).any():
            return None
        return self.rule.metric(self.rows.measuring.truth[held], answers)

    def _sample(self, rows: Integers, segment: Segment) -> Integers:
        most = self.assignment.maximum_rows
        if most is None or len(rows) <= most:
            return rows
        drawn = np.random.default_rng(segment_seed(self.assignment.seed, segment.text)).choice(
            rows, most, replace=False
        )
        return np.sort(drawn)


def segment_seed(seed: int, text: str) -> int:
    """The seed of one segment's model: 31 bits of a hash of the training's seed and the key."""
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:4], "little") & 0x7FFFFFFF


def label_array(labels: tuple[Label, ...]) -> NDArray[Any] | None:
    """Sorted labels as scikit-learn takes them, or None where there are none."""
    return np.array(labels) if labels else None


def _column(values: object) -> Floats:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _method(estimator: Any, name: str, what: str, rule: KeepRule) -> Any:
    method = getattr(estimator, name, None)
    if method is None:
        final = estimator[-1] if hasattr(estimator, "steps") else estimator
        raise UnsupportedEstimator(
            type(final).__name__, f"gives no {what.removeprefix('a ')}, which {rule.metric.name} needs"
        )
    return method


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]


def _with_warning(verdict: Verdict, caught: warnings.WarningMessage) -> Verdict:
    text = next(iter(str(caught.message).strip().splitlines()), "")
    return replace(verdict, warning=f"{caught.category.__name__}: {text}"[:300])
