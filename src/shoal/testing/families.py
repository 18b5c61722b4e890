"""The conformance suite of families: a packed model must answer as its estimator does.

>>> from shoal.testing.families import check_family
>>> check_family([estimator], features=["temp", "wind"], rows=frame)  # doctest: +SKIP

Run it on every estimator that a new family recognises, with ordinary rows and with edge values, missing values and
infinities among them.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.families import family, pack, validate
from shoal.families.contract import Answers, Batch, ModelBlock, PackedModel, ReferenceAnswer
from shoal.families.stacking import StackedModels, stack
from shoal.kernels.transform import CHUNK
from shoal.testing.programs import reference_inputs
from shoal.testing.rows import Rows, as_batch_columns, as_fitted, as_frame
from shoal.types import Floats, Integers, Reason, Task

TOLERANCE = 1e-9
"""Largest difference, in units of ``max(1, |expected|)``."""

MOST_REFUSALS = 25
"""Of the marked rows, so many are shown to the estimator, one by one, to see that it refuses them too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What an estimator itself says about some rows.

    Attributes
    ----------
    values : ndarray of float64, shape (rows,)
        Prediction or decision function; zeros for classification.
    labels : list of Label
        Predicted labels; empty unless classification.
    probabilities : ndarray of float64, shape (rows, classes), or None
        None where the estimator has none.
    close : ndarray of bool, shape (rows,)
        Where two classes are so close that rounding decides between them.
    """

    values: Floats
    labels: list[object]
    probabilities: Floats | None
    close: NDArray[np.bool_]


def check_family(
    estimators: Sequence[object], *, features: Sequence[str], rows: Rows, tolerance: float = TOLERANCE
) -> None:
    """Pack, stack, validate and score fitted estimators, and compare with what they say themselves.

    Checked are, for every estimator and row: values, labels and probabilities against the estimator and against
    ``family.reference``; that a row is marked if it holds an infinity or the estimator refuses it, and no other; that
    the bits stay the same when rows are scored one by one, in other units, or in another order.

    Parameters
    ----------
    estimators : sequence of object
        Fitted estimators; those with equal layouts share a block.
    features : sequence of str
        Raw input columns.
    rows : polars.DataFrame or ndarray, shape (rows, features)
        What to score. Null and NaN are missing.
    tolerance : float, default=1e-9
        Largest difference, in units of ``max(1, |expected|)``.

    Raises
    ------
    AssertionError
        Says which estimator, which row, and what was expected.
    """
    frame = as_frame(rows, features)
    packed = [pack(estimator, features) for estimator in estimators]
    for estimator, model in zip(estimators, packed, strict=True):
        _check_packed(model)
        _check_same_packing(model, pack(estimator, features))
    for layout in dict.fromkeys(model.layout for model in packed):
        chosen = [i for i, model in enumerate(packed) if model.layout == layout]
        _check_block([estimators[i] for i in chosen], [packed[i] for i in chosen], frame, tolerance)


def _check_packed(model: PackedModel) -> None:
    """The form that blocks rely on."""
    ragged = family(model.layout.family).ragged
    assert model.transform.shape == (model.layout.slots,), "transform must have one number per slot"
    assert len(model.categories) == len(model.layout.features), "categories must have one entry per feature"
    for name, array in model.parameters.items():
        assert array.dtype in (np.float64, np.int32, np.int64), f"parameter {name!r} is {array.dtype}"
        assert array.flags.c_contiguous, f"parameter {name!r} is not C-contiguous"
        assert name not in ragged or array.ndim == 1, f"the ragged parameter {name!r} has {array.ndim} dimensions"
    assert (model.layout.task is Task.CLASSIFICATION) == bool(model.classes), "only classifiers have classes"
    assert all(type(label) in (str, int, bool) for label in model.classes), f"labels are {model.classes}"


def _check_same_packing(one: PackedModel, other: PackedModel) -> None:
    assert one.layout == other.layout, "packing twice gave two layouts"
    assert hash(one.layout) == hash(other.layout)
    np.testing.assert_array_equal(one.transform, other.transform)
    for name, array in one.parameters.items():
        np.testing.assert_array_equal(array, other.parameters[name], err_msg=name)


def _check_block(
    estimators: Sequence[object], models: Sequence[PackedModel], frame: pl.DataFrame, tolerance: float
) -> None:
    stacked = stack(models)
    block = frozen_block(stacked)
    validate(block)
    frame = frame[[i % len(frame) for i in range(max(len(frame), 2 * CHUNK + 3))]]
    X = as_batch_columns(frame, stacked)
    units = _whole_units(len(models), len(frame))
    answers = score(block, np.tile(X, len(models)), units, len(stacked.labels))
    _check_bits(block, X, answers, len(stacked.labels))
    for number, estimator in enumerate(estimators):
        mine = _part(answers, units[number, 1], units[number, 2])
        _check_marks(estimator, frame, X, mine, block.layout.task, _overflows(block, number, X))
        good = mine.reasons == 0
        _check_reference(block, number, X, mine, good, tolerance)
        if good.any():
            _check_truth(estimator, frame.filter(good), _chosen(mine, good), stacked, tolerance)


def frozen_block(stacked: StackedModels) -> ModelBlock:
    """A block whose arrays cannot be written, as if they were mapped from a file."""
    block = stacked.block()
    ragged = [array for one in block.ragged.values() for array in (one.offsets, one.values)]
    for array in [block.program, block.transform, block.classes, block.class_map, *block.fixed.values(), *ragged]:
        array.flags.writeable = False
    return block


def blank_answers(rows: int, labels: int) -> Answers:
    """Answers as a kernel expects to find them."""
    return Answers(
        values=np.full(rows, np.nan),
        labels=np.full(rows, -1, dtype=np.int32),
        probabilities=np.full((rows, labels), np.nan),
        reasons=np.zeros(rows, dtype=np.uint8),
        culprits=np.zeros(rows, dtype=np.int16),
    )


def score(block: ModelBlock, X: Floats, units: Integers, labels: int, *, calls: int = 1) -> Answers:
    """Score all units in so many calls of the kernel, as threads would."""
    answers = blank_answers(X.shape[1], labels)
    batch = Batch(X=np.ascontiguousarray(X), units=np.ascontiguousarray(units))
    bounds = np.linspace(0, len(units), calls + 1).astype(int)
    for lo, hi in pairwise(bounds.tolist()):
        family(block.layout.family).score(block, batch, answers, lo, hi)
    return answers


def _whole_units(models: int, rows: int) -> Integers:
    starts = np.arange(models, dtype=np.int64) * rows
    return np.stack([np.arange(models, dtype=np.int64), starts, starts + rows], axis=1)


def _part(answers: Answers, start: int, stop: int) -> Answers:
    return _chosen(answers, slice(start, stop))


def _chosen(answers: Answers, rows: slice | NDArray[np.generic]) -> Answers:
    return Answers(
        values=answers.values[rows],
        labels=answers.labels[rows],
        probabilities=answers.probabilities[rows],
        reasons=answers.reasons[rows],
        culprits=answers.culprits[rows],
    )


def _splits(models: int, rows: int) -> Iterator[tuple[str, Integers, Integers, int]]:
    """Ways to score the same rows: a name, for each place the row that stands there, the units, and the calls."""
    generator = np.random.default_rng(7)
    total = models * rows
    model = np.repeat(np.arange(models, dtype=np.int64), rows)
    places = np.arange(total, dtype=np.int64)
    yield "one by one", places, np.stack([model, places, places + 1], axis=1), 3
    order = np.concatenate([m * rows + generator.permutation(rows) for m in range(models)])
    yield "in another order", order, _whole_units(models, rows), models
    inner = np.unique(generator.integers(1, rows, size=max(rows // 9, 1)))
    cuts = np.concatenate([[0], inner, [rows]])
    units = [(m, m * rows + a, m * rows + b) for m in range(models) for a, b in pairwise(cuts.tolist())]
    yield "in other units", places, np.array(units, dtype=np.int64)[::-1], 2


def _check_bits(block: ModelBlock, X: Floats, answers: Answers, labels: int) -> None:
    """The same bits however rows are split over units and calls."""
    repeated = np.tile(X, block.models)
    good = answers.reasons == 0
    for name, order, units, calls in _splits(block.models, X.shape[1]):
        other = score(block, repeated[:, order], units, labels, calls=calls)
        np.testing.assert_array_equal(other.reasons, answers.reasons[order], err_msg=f"marks differ {name}")
        marked = other.reasons != 0
        np.testing.assert_array_equal(other.culprits[marked], answers.culprits[order][marked], err_msg=name)
        kept = good[order]
        for field in _answered(block.layout.task):
            one, two = getattr(other, field)[kept], getattr(answers, field)[order][kept]
            assert one.tobytes() == two.tobytes(), f"{field} have other bits when rows are scored {name}"


def _answered(task: Task) -> Sequence[str]:
    return ("labels", "probabilities") if task is Task.CLASSIFICATION else ("values",)


def _overflows(block: ModelBlock, model: int, X: Floats) -> NDArray[np.bool_]:
    """Rows with a value that the transforms, or single precision, make infinite."""
    return np.asarray(np.isinf(reference_inputs(block, model, X)).any(axis=0))


def _check_marks(
    estimator: object, frame: pl.DataFrame, X: Floats, answers: Answers, task: Task, overflows: NDArray[np.bool_]
) -> None:
    """A row is marked if it holds or becomes infinite, or the estimator refuses it or has no finite answer.

    Some estimators answer infinities; a family never does.
    """
    infinite = np.isinf(X).any(axis=0)
    assert (answers.reasons[infinite] != 0).all(), "a row with an infinite value was not marked"
    others = np.flatnonzero((answers.reasons != 0) & ~infinite & ~overflows)
    seen: set[object] = set()
    for i in others.tolist():
        key = tuple(X[:, i].tolist())
        if repr(key) in seen or len(seen) >= MOST_REFUSALS:
            continue
        seen.add(repr(key))
        words = Reason(int(answers.reasons[i])).words
        assert _refuses(estimator, frame[i], task), (
            f"row {frame[i].row(0)} is marked ({words}), but the estimator answers it"
        )


def _refuses(estimator: object, row: pl.DataFrame, task: Task) -> bool:
    """Whether the estimator raises, or answers with something that is not finite."""
    try:
        truth = _truth(estimator, row, task)
    except (ValueError, TypeError):
        return True
    probabilities = truth.probabilities
    finite = np.isfinite(truth.values).all() and (probabilities is None or np.isfinite(probabilities).all())
    return not (finite and np.isfinite(_margins(estimator, as_fitted(row, estimator))).all())


def _truth(estimator: object, frame: pl.DataFrame, task: Task) -> Truth:
    data = as_fitted(frame, estimator)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if task is Task.CLASSIFICATION:
            return _classifier_truth(estimator, data)
        answer = estimator.decision_function if task is Task.ANOMALY else estimator.predict  # type: ignore[attr-defined]
        values = answer(data)
    values = np.asarray(values, dtype=np.float64)
    return Truth(values=values, labels=[], probabilities=None, close=np.zeros(len(values), dtype=bool))


def _classifier_truth(estimator: object, data: pl.DataFrame | NDArray[np.generic]) -> Truth:
    labels = np.asarray(estimator.predict(data))  # type: ignore[attr-defined]
    probabilities = estimator.predict_proba(data) if hasattr(estimator, "predict_proba") else None
    return Truth(
        values=np.zeros(len(labels)),
        labels=labels.tolist(),
        probabilities=probabilities,
        close=_margins(estimator, data) <= TOLERANCE,
    )


def _margins(estimator: object, data: pl.DataFrame | NDArray[np.generic]) -> Floats:
    """How far the winning class is ahead, relative to the decisions' size; ones if the estimator does not say."""
    if not hasattr(estimator, "decision_function"):
        return np.ones(len(data))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        decisions = np.asarray(estimator.decision_function(data), dtype=np.float64)
        if decisions.ndim == 1:
            decisions = np.stack([np.zeros(len(decisions)), decisions], axis=1)
        ordered = np.sort(decisions, axis=1)
        margins: Floats = (ordered[:, -1] - ordered[:, -2]) / np.maximum(1.0, np.abs(ordered).max(axis=1))
    return margins


def _check_reference(
    block: ModelBlock, model: int, X: Floats, answers: Answers, good: NDArray[np.bool_], tolerance: float
) -> None:
    """The kernel against the family's own plain NumPy."""
    Z = reference_inputs(block, model, X[:, good])
    expected = family(block.layout.family).reference(block, model, Z)
    if block.layout.task is not Task.CLASSIFICATION:
        _assert_close(answers.values[good], expected.values, tolerance, "values differ from the reference")
        return
    _check_reference_classes(block, model, answers, good, expected, tolerance)


def _check_reference_classes(
    block: ModelBlock,
    model: int,
    answers: Answers,
    good: NDArray[np.bool_],
    expected: ReferenceAnswer,
    tolerance: float,
) -> None:
    columns = block.class_map[block.classes[model]]
    others = np.setdiff1d(np.arange(answers.probabilities.shape[1]), columns)
    assert np.isnan(answers.probabilities[good][:, others]).all(), "a class the model never saw has a probability"
    found = answers.probabilities[good][:, columns]
    if expected.probabilities is None:
        assert np.isnan(found).all(), "the reference has no probabilities, the kernel has"
    else:
        _assert_close(found, expected.probabilities, tolerance, "probabilities differ from the reference")
    differing = (answers.labels[good] != columns[expected.labels]).mean() if good.any() else 0.0
    assert differing <= 0.01, f"{differing:.1%} of the labels differ from the reference"


def _check_truth(
    estimator: object, frame: pl.DataFrame, answers: Answers, stacked: StackedModels, tolerance: float
) -> None:
    """The kernel against the estimator itself."""
    name = type(estimator).__name__
    truth = _truth(estimator, frame, stacked.layout.task)
    if stacked.layout.task is not Task.CLASSIFICATION:
        _assert_close(answers.values, truth.values, tolerance, f"values differ from {name}")
        if stacked.layout.task is Task.ANOMALY:
            _check_anomalies(estimator, frame, answers, tolerance)
        return
    found = [stacked.labels[i] for i in answers.labels.tolist()]
    for row, (one, two) in enumerate(zip(found, truth.labels, strict=True)):
        assert one == two or truth.close[row], f"row {frame.row(row)}: label {one!r}, but {name} says {two!r}"
    if truth.probabilities is None:
        assert np.isnan(answers.probabilities).all(), f"{name} has no probabilities, the kernel has"
        return
    columns = [_position(stacked, label) for label in estimator.classes_.tolist()]  # type: ignore[attr-defined]
    _assert_close(
        answers.probabilities[:, columns], truth.probabilities, tolerance, f"probabilities differ from {name}"
    )


def _position(stacked: StackedModels, label: object) -> int:
    return next(
        i for i, one in enumerate(stacked.labels) if one == label and isinstance(one, bool) == isinstance(label, bool)
    )


def _check_anomalies(estimator: object, frame: pl.DataFrame, answers: Answers, tolerance: float) -> None:
    predicted = np.asarray(estimator.predict(as_fitted(frame, estimator)))  # type: ignore[attr-defined]
    clear = np.abs(answers.values) > tolerance
    assert ((answers.values < 0) == (predicted == -1))[clear].all(), "below zero must mean anomaly"


def _assert_close(found: Floats, expected: Floats, tolerance: float, message: str) -> None:
    """Compare in units of ``max(1, |expected|)``."""
    assert found.shape == expected.shape, f"{message}: shape {found.shape}, expected {expected.shape}"
    with np.errstate(all="ignore"):
        error = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    wrong = ~(error <= tolerance)
    if wrong.any():
        worst = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
        raise AssertionError(
            f"{message}: {int(wrong.sum())} of {wrong.size}, the worst at {tuple(int(i) for i in worst)}: "
            f"{found[worst]!r}, expected {expected[worst]!r}"
        )
