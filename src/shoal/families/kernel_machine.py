"""The family of kernel machines: support vector machines and kernel ridge regression."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidArtifact
from shoal.families.contract import Answers, Batch, ModelBlock, PackedModel, ReferenceAnswer
from shoal.families.inputs import Inputs
from shoal.families.kernel_machine_layout import Machine, unpacked
from shoal.families.kernel_machine_reference import coupled, decisions, elected
from shoal.families.kernel_machine_sklearn import KERNELS, MOST_CLASSES, MOST_DEGREE, read_kernel_ridge, read_svm
from shoal.families.names import class_name
from shoal.families.validation import check_array, check_ragged
from shoal.kernels.kernel_machine import SCORE, scratch_sizes
from shoal.kernels.lanes import WIDTH
from shoal.kernels.transform import CHUNK
from shoal.types import Floats, Integers, Task

NAME = "kernel_machine"

_READERS: dict[str, tuple[Task, Callable[[Any, str], Machine]]] = {
    "sklearn.svm.OneClassSVM": (Task.ANOMALY, read_svm),
    "sklearn.svm.SVC": (Task.CLASSIFICATION, read_svm),
    "sklearn.svm.NuSVC": (Task.CLASSIFICATION, read_svm),
    "sklearn.svm.SVR": (Task.REGRESSION, read_svm),
    "sklearn.svm.NuSVR": (Task.REGRESSION, read_svm),
    "sklearn.kernel_ridge.KernelRidge": (Task.REGRESSION, read_kernel_ridge),
}

_NO_SIGMOIDS = np.zeros((0, 0, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Static:
    """The static part of a layout, checked."""

    kernel: str
    degree: int
    classes: int
    probability: bool
    break_ties: bool

    @property
    def pairs(self) -> int:
        return max(1, self.classes * (self.classes - 1) // 2)

    @property
    def groups(self) -> int:
        """Groups of support vectors that fill blocks of their own."""
        return self.classes if self.classes > 2 else 1

    @property
    def opponents(self) -> int:
        """Coefficients per support vector."""
        return max(1, self.classes - 1)


class KernelMachine:
    """Support vector machines and kernel ridge regression; see :mod:`shoal.kernels.kernel_machine` for the layout."""

    name = NAME
    ragged = frozenset({"support", "coefficients"})

    def recognises(self, estimator: object) -> bool:
        """Whether this is one of scikit-learn's six kernel machines."""
        return class_name(estimator) in _READERS

    def pack(self, estimator: object, columns: Inputs) -> PackedModel:
        """Lay out one fitted kernel machine.

        Raises
        ------
        UnsupportedEstimator
            Its kernel is precomputed, a function or an unusual one; a parameter is not finite; several targets.
        """
        task, read = _READERS[class_name(estimator)]
        machine = read(estimator, columns.part).collapsed()
        columns.require()
        machine = replace(machine, support=cast("Floats", columns.spread(machine.support, axis=1)))
        return columns.model(
            family=NAME,
            task=task,
            parameters=machine.parameters(),
            static=machine.static(),
            classes=machine.classes,
        )

    def validate(self, block: ModelBlock) -> None:
        """Check that counts, offsets and lengths agree and that all numbers are finite.

        Raises
        ------
        InvalidArtifact
            Says what is wrong with which model.
        """
        static = _static(block)
        _check_fixed(block, static)
        for name in sorted(self.ragged):
            check_ragged(name, block.ragged[name], block.models, np.dtype(np.float64))
            _check_finite(name, block.ragged[name].values)
        _check_lengths(block, static)

    def score(self, block: ModelBlock, batch: Batch, answers: Answers, lo: int, hi: int) -> None:
        """Score units ``lo`` to ``hi``: one call of the kernel."""
        layout = block.layout
        static = _static(block)
        rows, shares, work = scratch_sizes(static.classes)
        support, coefficients = block.ragged["support"], block.ragged["coefficients"]
        SCORE(
            batch.X, batch.units, lo, hi, block.program, block.transform, layout.scratch, layout.first,
            layout.width, int(KERNELS[static.kernel]), static.degree, static.break_ties,
            block.fixed["gamma"], block.fixed["coef0"], support.offsets, support.values,
            coefficients.offsets, coefficients.values, block.fixed["blocks"], block.fixed["intercept"],
            block.fixed["platt"] if static.probability else _NO_SIGMOIDS, block.classes, block.class_map,
            np.zeros((layout.scratch, CHUNK)), np.zeros((rows, CHUNK)), np.zeros(shares), np.zeros(work),
            answers.values, answers.labels, answers.probabilities, answers.reasons, answers.culprits,
        )  # fmt: skip

    def reference(self, block: ModelBlock, model: int, Z: Floats) -> ReferenceAnswer:
        """Answer in plain NumPy: the truth the kernel is tested against."""
        static = _static(block)
        own = {name: values[model] for name, values in block.fixed.items()}
        support, coefficients = (
            cast("Floats", part.values[part.offsets[model] : part.offsets[model + 1]])
            for part in (block.ragged["support"], block.ragged["coefficients"])
        )
        support, coefficients = unpacked(own, support, coefficients, block.layout.width)
        machine = Machine(
            kernel=KERNELS[static.kernel], degree=static.degree, gamma=float(own["gamma"][0]),
            coef0=float(own["coef0"][0]), support=support, coefficients=coefficients,
            intercept=cast("Floats", own["intercept"]), counts=cast("Integers", own["blocks"]) * WIDTH,
            platt=cast("Floats", own["platt"]) if static.probability else None, break_ties=static.break_ties,
        )  # fmt: skip
        values = decisions(machine, Z.T)
        if not static.classes:
            return ReferenceAnswer(values=values[:, 0], labels=np.zeros(0, dtype=np.int64))
        return ReferenceAnswer(
            values=np.zeros(len(values)),
            labels=elected(values, static.classes, static.break_ties),
            probabilities=None if machine.platt is None else coupled(values, machine.platt, static.classes),
        )

    def warm(self) -> None:
        """Load or compile the kernel."""
        SCORE.warm()


def _static(block: ModelBlock) -> _Static:
    """Read what the layout says, or refuse it."""
    given = dict(block.layout.static)
    kernel, degree, classes = (given.get(name) for name in ("kernel", "degree", "classes"))
    flags = [given.get(name) for name in ("probability", "break_ties")]
    good = (
        isinstance(kernel, str)
        and kernel in KERNELS
        and isinstance(degree, int)
        and 0 <= degree <= MOST_DEGREE
        and isinstance(classes, int)
        and (classes == 0 or 2 <= classes <= MOST_CLASSES)
        and all(isinstance(flag, bool) for flag in flags)
        and len(given) == 5
        and (classes > 0) == (block.layout.task is Task.CLASSIFICATION)
    )
    if not good:
        raise InvalidArtifact(f"a kernel machine's layout says {given}; no version of Shoal writes this")
    probability, break_ties = flags
    return _Static(
        kernel=cast("str", kernel), degree=cast("int", degree), classes=cast("int", classes),
        probability=probability is True, break_ties=break_ties is True,
    )  # fmt: skip


def _check_fixed(block: ModelBlock, static: _Static) -> None:
    shapes: dict[str, tuple[int, ...]] = {"gamma": (1,), "coef0": (1,), "intercept": (static.pairs,)}
    if static.probability:
        shapes["platt"] = (static.pairs, 2)
    if set(block.fixed) != {"blocks", *shapes} or set(block.ragged) != KernelMachine.ragged:
        raise InvalidArtifact(f"a kernel machine's parameters are {sorted(block.fixed)} and {sorted(block.ragged)}")
    for name, shape in shapes.items():
        check_array(name, block.fixed[name], np.dtype(np.float64), (block.models, *shape))
        _check_finite(name, block.fixed[name])
    check_array("blocks", block.fixed["blocks"], np.dtype(np.int64), (block.models, static.groups))
    if (cast("Floats", block.fixed["gamma"]) < 0.0).any():
        raise InvalidArtifact("a kernel machine's gamma is negative")
    if block.classes.shape[1] != static.classes:
        raise InvalidArtifact(f"a kernel machine has {block.classes.shape[1]} classes, its layout {static.classes}")


def _check_finite(name: str, array: NDArray[np.generic]) -> None:
    if not np.isfinite(array).all():
        raise InvalidArtifact(f"a kernel machine's {name} has numbers that are not finite")


def _check_lengths(block: ModelBlock, static: _Static) -> None:
    """Blocks, coefficients and support vectors must tell the same story of every model."""
    blocks = cast("Integers", block.fixed["blocks"])
    weights = np.diff(block.ragged["coefficients"].offsets)
    # Bounded one by one first, so that no sum of crafted numbers can wrap around.
    if not ((blocks >= 0) & (blocks <= weights[:, None])).all():
        raise InvalidArtifact("a kernel machine's number of blocks is out of range")
    total = blocks.sum(axis=1)
    lengths = {"coefficients": static.opponents, "support": block.layout.width}
    for name, per_vector in lengths.items():
        wrong = np.diff(block.ragged[name].offsets) != total * (per_vector * WIDTH)
        if wrong.any():
            raise InvalidArtifact(f"model {int(np.argmax(wrong))}: {name} do not fit its number of support vectors")


FAMILY = KernelMachine()
