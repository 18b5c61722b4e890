"""What a family is: how one kind of estimator is laid out as columns, and which kernel scores it.

Three shapes travel between the layers:

- :class:`PackedModel`: one fitted estimator as plain numbers, made by ``Family.pack``;
- :class:`ModelBlock`: many packed models of one :class:`Layout`, as the arrays that kernels read (often mapped
  from a file, hence read-only), checked once by ``Family.validate``;
- :class:`Batch` and :class:`Answers`: rows grouped by model, and where the kernel writes what it found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shoal.types import Bytes, Feature, Floats, Indices, Integers, Label, Task

if TYPE_CHECKING:
    from shoal.families.inputs import Inputs

Static = str | int | float | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What all models of a block have in common.

    Attributes
    ----------
    family : str
        Name of the family.
    task : Task
        What the models predict.
    features : tuple of Feature
        The raw input columns, in the order of ``Batch.X``'s rows.
    program : tuple of tuple of int
        Steps of the column-transform program, see :mod:`shoal.kernels.program`.
    scratch : int
        Number of columns the program works on.
    first, width : int
        The estimator's inputs are the columns ``first`` to ``first + width`` of the scratch.
    slots : int
        Numbers each model brings for the program.
    category_slots : tuple of (slot, feature)
        Which of those numbers are category codes, and of which feature: they are renumbered when models with
        other category lists join a block. NaN and infinity stay as they are.
    static : tuple of (name, value)
        What the family itself keeps per layout, e.g. the kernel function or the number of classes.
    """

    family: str
    task: Task
    features: tuple[Feature, ...]
    program: tuple[tuple[int, int, int, int, int, int, int], ...]
    scratch: int
    first: int
    width: int
    slots: int
    category_slots: tuple[tuple[int, int], ...] = ()
    static: tuple[tuple[str, Static], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedModel:
    """One fitted estimator as plain numbers.

    Attributes
    ----------
    layout : Layout
        Models with equal layouts share a block.
    transform : ndarray of float64, shape (slots,)
        The numbers of the column-transform program.
    categories : tuple of tuple of str
        Per feature, the texts that its category codes (0, 1, ...) stand for; ``()`` for numeric features.
    parameters : mapping of str to ndarray
        The family's own parameters. float64, int32 or int64, C-contiguous. A parameter that the family lists
        in ``ragged`` is one-dimensional and of any length; any other has the same shape in every model of the layout.
    classes : tuple of Label
        Class labels in the estimator's order; empty unless the task is classification.
    """

    layout: Layout
    transform: Floats
    parameters: Mapping[str, NDArray[np.generic]]
    categories: tuple[tuple[str, ...], ...] = ()
    classes: tuple[Label, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """A parameter whose length differs from model to model, as CSR arrays.

    Attributes
    ----------
    offsets : ndarray of int64, shape (models + 1,)
        Model ``m`` owns ``values[offsets[m]:offsets[m + 1]]``.
    values : ndarray
        All models' values, one behind the other.
    """

    offsets: Integers
    values: NDArray[np.generic]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelBlock:
    """Many models of one layout as the arrays that a kernel reads. All arrays may be read-only.

    Attributes
    ----------
    layout : Layout
        What the models have in common.
    models : int
        How many there are.
    program : ndarray of int32, shape (steps, 7)
        ``layout.program`` as an array.
    transform : ndarray of float64, shape (models, slots)
        Each model's numbers for the program.
    fixed : mapping of str to ndarray, shape (models, ...)
        The parameters with one shape.
    ragged : mapping of str to Ragged
        The parameters of varying length.
    classes : ndarray of int32, shape (models, n_classes)
        Each model's labels as positions in the *block's* list of labels; shape (models, 0) unless classification.
    class_map : ndarray of int32
        From the block's list of labels to the fleet's.
    """

    layout: Layout
    models: int
    program: Indices
    transform: Floats
    fixed: Mapping[str, NDArray[np.generic]]
    ragged: Mapping[str, Ragged]
    classes: Indices
    class_map: Indices


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows grouped by model.

    Attributes
    ----------
    X : ndarray of float64, shape (features, rows), C-contiguous
        Raw features; NaN is missing. A category feature holds the code in the block's list, -1 for a text that is
        not in it. Rows of one model are neighbours.
    units : ndarray of int64, shape (units, 3)
        ``(model, start, stop)``: rows ``start`` to ``stop`` belong to that model of the block. A model's rows may be
        split over several units so that threads share them.
    """

    X: Floats
    units: Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Where a kernel writes; threads write disjoint rows.

    Attributes
    ----------
    values : ndarray of float64, shape (rows,)
        Prediction (regression) or decision function (anomaly).
    labels : ndarray of int32, shape (rows,)
        Position of the predicted label in the *fleet's* list of labels, prefilled with -1.
    probabilities : ndarray of float64, shape (rows, fleet classes)
        Prefilled with NaN, which stays where the model never saw the class or gives no probability.
    reasons : ndarray of uint8, shape (rows,)
        A :class:`shoal.types.Reason`, prefilled with 0. A marked row's other answers are not looked at.
    culprits : ndarray of int16, shape (rows,)
        The feature of the layout that the reason is about; -1 if it is about none.
    """

    values: Floats
    labels: Indices
    probabilities: Floats
    reasons: Bytes
    culprits: NDArray[np.int16]


class Family(Protocol):
    """One kind of estimator. A family only recognises and packs: its loop is a kernel.

    Every module of :mod:`shoal.families` that has a ``FAMILY`` (or ``FAMILIES``) is found by itself, and
    :mod:`shoal.testing.families` holds the suite that a new one must pass.
    """

    @property
    def name(self) -> str:
        """Name of the family; part of the block format."""
        ...

    @property
    def ragged(self) -> frozenset[str]:
        """Names of the parameters whose length differs from model to model."""
        ...

    def recognises(self, estimator: object) -> bool:
        """Whether this family can try to pack a final estimator of this class."""
        ...

    def pack(self, estimator: object, columns: "Inputs") -> PackedModel:
        """Lay out one fitted estimator that sits behind ``columns``.

        Raises
        ------
        UnsupportedEstimator
            Names the parameter that stopped it.
        """
        ...

    def validate(self, block: ModelBlock) -> None:
        """Check every count, offset and index that the kernel will follow, before it sees them.

        Raises
        ------
        InvalidArtifact
            Says what is wrong with which model.
        """
        ...

    def score(self, block: ModelBlock, batch: Batch, answers: Answers, lo: int, hi: int) -> None:
        """Score units ``lo`` to ``hi``: one call of a kernel that does not hold the GIL and starts no thread."""
        ...

    def reference(self, block: ModelBlock, model: int, Z: Floats) -> "ReferenceAnswer":
        """Answer in plain NumPy, slowly: the truth the kernel is tested against.

        Parameters
        ----------
        block : ModelBlock
            The block.
        model : int
            Which of its models.
        Z : ndarray of float64, shape (layout.width, rows)
            The estimator's inputs, as the transform program leaves them.
        """
        ...

    def warm(self) -> None:
        """Load or compile the kernel, so that no request waits for it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceAnswer:
    """What :meth:`Family.reference` returns.

    Attributes
    ----------
    values : ndarray of float64, shape (rows,)
        Prediction or decision function; for classification, ignored.
    labels : ndarray of int64, shape (rows,)
        Position in the *model's* classes; empty unless classification.
    probabilities : ndarray of float64, shape (rows, n_classes), or None
        None where the estimator gives none.
    """

    values: Floats
    labels: Integers
    probabilities: Floats | None = None
