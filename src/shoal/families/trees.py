"""The family of everything that is made of decision trees: one kernel, a packer per kind of estimator."""

from collections.abc import Callable, Mapping

from shoal.families.contract import Answers, Batch, ModelBlock, PackedModel, ReferenceAnswer
from shoal.families.inputs import Inputs
from shoal.families.names import class_name
from shoal.families.trees_boosting import BOOSTING, pack_boosting
from shoal.families.trees_forest import FORESTS, TREES, pack_forest, pack_tree
from shoal.families.trees_histogram import HISTOGRAM_BOOSTING, pack_histogram_boosting
from shoal.families.trees_isolation import ISOLATION_FORESTS, pack_isolation_forest
from shoal.families.trees_layout import NAME, RAGGED, Shape
from shoal.families.trees_reference import answer
from shoal.families.trees_validation import validate_trees
from shoal.kernels.tree_links import shift_of
from shoal.kernels.trees import score
from shoal.types import Floats

Packer = Callable[[object, Inputs], PackedModel]

PACKERS: Mapping[str, Packer] = {
    **dict.fromkeys(TREES, pack_tree),
    **dict.fromkeys(FORESTS, pack_forest),
    **dict.fromkeys(BOOSTING, pack_boosting),
    **dict.fromkeys(HISTOGRAM_BOOSTING, pack_histogram_boosting),
    **dict.fromkeys(ISOLATION_FORESTS, pack_isolation_forest),
}


class Trees:
    """Decision trees, forests, boosted trees and isolation forests."""

    name = NAME
    ragged = frozenset(RAGGED)

    def recognises(self, estimator: object) -> bool:
        """Whether this is one of scikit-learn's estimators made of trees."""
        return class_name(estimator) in PACKERS

    def pack(self, estimator: object, columns: Inputs) -> PackedModel:
        """Lay out one fitted estimator; see :mod:`shoal.families.trees_layout`."""
        return PACKERS[class_name(estimator)](estimator, columns)

    def validate(self, block: ModelBlock) -> None:
        """Check every node, root, set, cut and answer that the kernel may follow."""
        validate_trees(block)

    def score(self, block: ModelBlock, batch: Batch, answers: Answers, lo: int, hi: int) -> None:
        """Score units ``lo`` to ``hi``."""
        layout, fixed, ragged = block.layout, block.fixed, block.ragged
        shape = Shape.of(dict(layout.static))
        score(
            batch.X, batch.units, lo, hi, block.program, block.transform, layout.scratch, layout.first,
            ragged["nodes"].values, ragged["nodes"].offsets,
            ragged["roots"].values, ragged["roots"].offsets,
            ragged["answers"].values, ragged["answers"].offsets, ragged["cuts"].values, ragged["cuts"].offsets,
            ragged["sets"].values, ragged["sets"].offsets,
            fixed["cut_starts"], fixed["levels"], fixed["start"], fixed["finish"], block.classes, block.class_map,
            int(shape.precision), shape.variants, int(shape.sets), int(shape.votes), int(shape.link),
            shift_of(layout.width, shape.variants),
            answers.values, answers.labels, answers.probabilities, answers.reasons, answers.culprits,
        )  # fmt: skip

    def reference(self, block: ModelBlock, model: int, Z: Floats) -> ReferenceAnswer:
        """Answer in plain NumPy."""
        return answer(block, model, Z)

    def warm(self) -> None:
        """Load or compile the kernel; packing and validating have kernels of their own and wait for them."""
        score.warm()


FAMILY = Trees()
