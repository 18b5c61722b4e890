"""Stacking packed models of one layout into the arrays of a block."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.families import family
from shoal.families.contract import Layout, ModelBlock, PackedModel, Ragged
from shoal.types import Floats, Indices, Integers, Label


@dataclass(frozen=True, kw_only=True, slots=True)
class StackedModels:
    """Many packed models of one layout, with one list of labels and one list of texts per category feature.

    Attributes
    ----------
    layout : Layout
        What the models have in common.
    transform : ndarray of float64, shape (models, slots)
        Numbers of the column-transform program; category codes count in ``categories``.
    fixed : mapping of str to ndarray, shape (models, ...)
        Parameters with one shape.
    ragged : mapping of str to Ragged
        Parameters of varying length.
    classes : ndarray of int32, shape (models, n_classes)
        Positions in ``labels``; shape (models, 0) unless classification.
    labels : tuple of Label
        All labels of the block, sorted: booleans, then integers, then text.
    categories : tuple of tuple of str
        Per feature of the layout, all texts of the block, sorted; ``()`` for numeric features.
    """

    layout: Layout
    transform: Floats
    fixed: Mapping[str, NDArray[np.generic]]
    ragged: Mapping[str, Ragged]
    classes: Indices
    labels: tuple[Label, ...]
    categories: tuple[tuple[str, ...], ...]

    def block(self, class_map: Indices | None = None) -> ModelBlock:
        """The same arrays as kernels read them.

        Parameters
        ----------
        class_map : ndarray of int32, shape (len(labels),), optional
            From these labels to the fleet's; by default they are the fleet's.
        """
        same = np.arange(len(self.labels), dtype=np.int32)
        return ModelBlock(
            layout=self.layout,
            models=len(self.transform),
            program=np.array(self.layout.program, dtype=np.int32).reshape(-1, 7),
            transform=self.transform,
            fixed=self.fixed,
            ragged=self.ragged,
            classes=self.classes,
            class_map=same if class_map is None else class_map,
        )


def stack(models: Sequence[PackedModel]) -> StackedModels:
    """Stack packed models of one layout.

    Parameters
    ----------
    models : sequence of PackedModel
        At least one; all with equal layouts.

    Returns
    -------
    StackedModels
        Model ``i`` of the block is ``models[i]``.

    Raises
    ------
    InvalidInput
        The layouts differ, or a parameter that should have one shape has several.
    """
    layout = _common_layout(models)
    ragged = family(layout.family).ragged
    labels, classes = _stacked_classes(models)
    categories, transform = _stacked_transform(layout, models)
    names = list(models[0].parameters)
    return StackedModels(
        layout=layout,
        transform=transform,
        fixed={name: _fixed(name, [m.parameters[name] for m in models]) for name in names if name not in ragged},
        ragged={name: _ragged([m.parameters[name] for m in models]) for name in names if name in ragged},
        classes=classes,
        labels=labels,
        categories=categories,
    )


def sorted_labels(labels: Iterable[Label]) -> tuple[Label, ...]:
    """Distinct labels in the order of a block: booleans, integers, texts, each ascending."""
    typed = {(_rank(label), label) for label in labels}
    return tuple(label for _, label in sorted(typed, key=lambda pair: (pair[0], pair[1])))


def _rank(label: Label) -> int:
    """Sorts types apart; without it True and 1 would be one label."""
    return (bool, int, str).index(type(label))


def _common_layout(models: Sequence[PackedModel]) -> Layout:
    if not models:
        raise InvalidInput("no models to stack; hand in at least one")
    layout = models[0].layout
    for number, model in enumerate(models):
        if model.layout is not layout and model.layout != layout:
            raise InvalidInput(
                f"model {number} has another layout than model 0; group models by layout before stacking"
            )
    return layout


def _fixed(name: str, arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    kinds = {(array.shape, array.dtype) for array in arrays}
    if len(kinds) > 1:
        raise InvalidInput(
            f"parameter {name!r} has {len(kinds)} shapes or types in one layout; the family must split it"
        )
    joined: NDArray[np.generic] = np.concatenate([array.reshape(-1) for array in arrays])
    return joined.reshape(len(arrays), *arrays[0].shape)


def _ragged(arrays: Sequence[NDArray[np.generic]]) -> Ragged:
    lengths = np.fromiter((len(array) for array in arrays), dtype=np.int64, count=len(arrays))
    return Ragged(offsets=_offsets(lengths), values=np.concatenate(arrays))


def _offsets(lengths: Integers) -> Integers:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _stacked_classes(models: Sequence[PackedModel]) -> tuple[tuple[Label, ...], Indices]:
    distinct = {(tuple(map(type, model.classes)), model.classes) for model in models}
    labels = sorted_labels(label for _, classes in distinct for label in classes)
    number = {(type(label), label): i for i, label in enumerate(labels)}
    rows = {key: [number[pair] for pair in zip(*key, strict=True)] for key in distinct}
    if len({len(row) for row in rows.values()}) > 1:
        raise InvalidInput("models of one layout have different numbers of classes; the family must split them")
    classes = np.array([rows[tuple(map(type, model.classes)), model.classes] for model in models], dtype=np.int32)
    return labels, classes.reshape(len(models), -1)


def _stacked_transform(layout: Layout, models: Sequence[PackedModel]) -> tuple[tuple[tuple[str, ...], ...], Floats]:
    """Stack the numbers and renumber category codes from the models' lists to the block's."""
    transform = np.concatenate([model.transform for model in models]).reshape(len(models), layout.slots)
    categories: list[tuple[str, ...]] = []
    for feature in range(len(layout.features)):
        slots = [slot for slot, owner in layout.category_slots if owner == feature]
        if not slots:
            categories.append(())
            continue
        texts, renumber = _unified([model.categories[feature] for model in models])
        transform[:, slots] = renumber(transform[:, slots])
        categories.append(texts)
    return tuple(categories), transform


def _unified(lists: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], Callable[[Floats], Floats]]:
    """One sorted list of texts, and the function from the models' codes to its codes."""
    distinct = set(lists)
    texts = tuple(sorted(set().union(*distinct)))
    number = {text: float(code) for code, text in enumerate(texts)}
    starts: dict[tuple[str, ...], int] = {}
    codes: list[float] = []
    for one in distinct:
        starts[one] = len(codes)
        codes.extend(number[text] for text in one)
    table = np.array(codes, dtype=np.float64)
    first = np.fromiter((starts[one] for one in lists), dtype=np.int64, count=len(lists))

    def renumber(old: Floats) -> Floats:
        known = np.isfinite(old)
        positions = np.where(known, old, 0.0).astype(np.int64) + first[:, None]
        new = old.copy()
        new[known] = table[positions[known]]
        return new

    return texts, renumber
