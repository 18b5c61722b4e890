"""Reading scikit-learn's fitted trees."""

from collections.abc import Sequence

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.trees_layout import Grown, Keys, single_keys
from shoal.types import Integers


def refuse_many_outputs(estimator: object, part: str) -> None:
    """Refuse an estimator that predicts several targets at once."""
    if getattr(estimator, "n_outputs_", 1) != 1:
        raise UnsupportedEstimator(part, "predicts several targets; fit one estimator per target")


def takes_missing(tree: object) -> bool:
    """Whether a fitted tree accepts missing values when it predicts, by its own tags."""
    return bool(tree.__sklearn_tags__().input_tags.allow_nan)  # type: ignore[attr-defined]


def read_trees(estimators: Sequence[object], places: Integers | Sequence[Integers], width: int) -> tuple[Grown, Keys]:
    """The nodes of fitted decision trees.

    Parameters
    ----------
    estimators : sequence of fitted trees
        With a ``tree_`` each.
    places : ndarray of int64, or one per tree
        From a tree's feature numbers to padded positions.
    width : int
        How many inputs there are, padding included.

    Returns
    -------
    Grown
        Its answers are scikit-learn's node values, shape (nodes, classes or 1).
    Keys
        In single precision.
    """
    states = [estimator.tree_.__getstate__() for estimator in estimators]  # type: ignore[attr-defined]
    nodes = np.concatenate([state["nodes"] for state in states])
    counts = np.array([len(state["nodes"]) for state in states])
    features = np.maximum(nodes["feature"], 0)
    grown = Grown(
        left=np.ascontiguousarray(nodes["left_child"], np.int64),
        right=np.ascontiguousarray(nodes["right_child"], np.int64),
        inputs=_placed(features, places, counts),
        missing_left=nodes["missing_go_to_left"] != 0,
        answers=np.concatenate([state["values"][:, 0, :] for state in states]),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )
    return grown, single_keys(np.ascontiguousarray(nodes["threshold"]), width)


def _placed(features: Integers, places: Integers | Sequence[Integers], counts: Integers) -> Integers:
    if isinstance(places, np.ndarray):
        return places[features]
    lengths = np.array([len(own) for own in places])
    firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.concatenate(places)[np.repeat(firsts, counts) + features]
