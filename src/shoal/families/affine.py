"""The affine family: linear and generalised linear models.

Layout of a block, with ``outputs`` and ``link`` (a name of :class:`shoal.kernels.affine.Link`) in ``Layout.static``:

- ``coef``, float64, shape (models, outputs, width): weights, padding columns 0;
- ``intercept``, float64, shape (models, outputs).
"""

from dataclasses import dataclass, field

import numpy as np

from shoal.errors import InvalidArtifact
from shoal.families.affine_recipes import RECIPES, read
from shoal.families.contract import Answers, Batch, Layout, ModelBlock, PackedModel, ReferenceAnswer
from shoal.families.inputs import Inputs
from shoal.families.names import class_name
from shoal.families.validation import check_array
from shoal.kernels.affine import Link, score_affine
from shoal.types import Floats, Task

_REGRESSION = frozenset({Link.IDENTITY, Link.EXP})
_ONE_OUTPUT = frozenset({Link.SIGN, Link.LOGISTIC, Link.HUBER})


@dataclass(frozen=True, kw_only=True, slots=True)
class AffineFamily:
    """Linear models, behind any link function."""

    name: str = "affine"
    ragged: frozenset[str] = field(default=frozenset())

    def recognises(self, estimator: object) -> bool:
        """Whether the estimator's class is in the list of linear models."""
        return class_name(estimator) in RECIPES

    def pack(self, estimator: object, columns: Inputs) -> PackedModel:
        """Lay out a fitted linear model."""
        reading = read(estimator, columns.part)
        columns.require()
        return columns.model(
            family=self.name,
            task=Task.REGRESSION if reading.classes is None else Task.CLASSIFICATION,
            parameters={"coef": columns.spread(reading.coef), "intercept": reading.intercept},
            static={"link": reading.link.name.lower(), "outputs": len(reading.coef)},
            classes=reading.classes,
        )

    def validate(self, block: ModelBlock) -> None:
        """Check the link, and every shape that the kernel relies on."""
        link, outputs = _link(block.layout), _outputs(block.layout)
        if (block.layout.task is Task.REGRESSION) != (link in _REGRESSION) or block.layout.task is Task.ANOMALY:
            raise InvalidArtifact(f"the link {link.name.lower()} does not answer the task {block.layout.task}")
        classes = 0 if link in _REGRESSION else 2 if link in _ONE_OUTPUT else outputs
        if (link in _REGRESSION | _ONE_OUTPUT and outputs != 1) or outputs < 1:
            raise InvalidArtifact(f"{outputs} outputs do not fit the link {link.name.lower()}")
        if block.classes.shape[1] != classes:
            raise InvalidArtifact(f"{outputs} outputs have {block.classes.shape[1]} classes, expected {classes}")
        _check_parameters(block, outputs)

    def score(self, block: ModelBlock, batch: Batch, answers: Answers, lo: int, hi: int) -> None:
        """Score units ``lo`` to ``hi``."""
        layout = block.layout
        score_affine(
            batch.X, batch.units, lo, hi, block.program, block.transform, layout.scratch, layout.first,
            block.fixed["coef"], block.fixed["intercept"], int(_link(layout)), block.classes, block.class_map,
            answers.values, answers.labels, answers.probabilities, answers.reasons, answers.culprits,
        )  # fmt: skip

    def reference(self, block: ModelBlock, model: int, Z: Floats) -> ReferenceAnswer:
        """Answer in plain NumPy."""
        with np.errstate(all="ignore"):
            sums = block.fixed["coef"][model] @ Z + block.fixed["intercept"][model][:, None]
            return _linked(_link(block.layout), sums)

    def warm(self) -> None:
        """Load or compile the kernel."""
        score_affine.warm()


def _link(layout: Layout) -> Link:
    try:
        return Link[str(dict(layout.static)["link"]).upper()]
    except KeyError as error:
        raise InvalidArtifact(f"the layout names no known link: {error}") from None


def _outputs(layout: Layout) -> int:
    outputs = dict(layout.static).get("outputs")
    if not isinstance(outputs, int):
        raise InvalidArtifact(f"the layout says {outputs!r} where it should give the number of outputs")
    return outputs


def _check_parameters(block: ModelBlock, outputs: int) -> None:
    double = np.dtype(np.float64)
    shapes = {"coef": (block.models, outputs, block.layout.width), "intercept": (block.models, outputs)}
    for name, shape in shapes.items():
        if name not in block.fixed:
            raise InvalidArtifact(f"the block lacks the parameter {name!r}")
        check_array(name, block.fixed[name], double, shape)
        if not np.isfinite(block.fixed[name]).all():
            raise InvalidArtifact(f"{name} has values that are not finite")


def _linked(link: Link, sums: Floats) -> ReferenceAnswer:
    nothing = np.empty(0, dtype=np.int64)
    if link in _REGRESSION:
        return ReferenceAnswer(values=np.exp(sums[0]) if link is Link.EXP else sums[0], labels=nothing)
    labels = (sums[0] > 0).astype(np.int64) if len(sums) == 1 else sums.argmax(axis=0)
    return ReferenceAnswer(values=sums[0], labels=labels, probabilities=_probabilities(link, sums))


def _probabilities(link: Link, sums: Floats) -> Floats | None:
    if link in (Link.SIGN, Link.ARGMAX):
        return None
    if link is Link.SOFTMAX:
        powers = np.exp(sums - sums.max(axis=0))
        return np.ascontiguousarray((powers / powers.sum(axis=0)).T)
    huber = link in (Link.HUBER, Link.HUBER_EACH)
    weights = (np.clip(sums, -1, 1) + 1) / 2 if huber else 1 / (1 + np.exp(-np.clip(sums, -700, 700)))
    if len(weights) == 1:
        return np.stack([1 - weights[0], weights[0]], axis=1)
    weights[:, weights.sum(axis=0) == 0] = 1
    return np.ascontiguousarray((weights / weights.sum(axis=0)).T)


FAMILY = AffineFamily()
