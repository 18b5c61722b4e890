"""What stands before the final estimator: its inputs, written down as a column-transform program."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UnsupportedEstimator
from shoal.families.categories import is_missing, known_value, write_look_up
from shoal.families.columns import Column, ProgramWriter
from shoal.families.composition import Flow, final_estimator, raw_names
from shoal.families.contract import Layout, PackedModel, Static
from shoal.kernels.program import Op
from shoal.types import Feature, Integers, Label, Task


class Inputs:
    """The columns that reach a final estimator, and the program that makes them.

    The estimator's own columns may be padded: a one-hot part has columns that are always 0, so that models with
    different numbers of categories share a layout. Parameters that run along the inputs go through :meth:`spread`,
    column numbers through :attr:`positions`.

    Parameters
    ----------
    estimator : object
        A fitted estimator, or a pipeline that ends in one.
    features : sequence of str
        The raw input columns that the caller will hand in.

    Attributes
    ----------
    estimator : object
        The final estimator.
    part : str
        Where it stands, as a beginning of messages.

    Raises
    ------
    UnsupportedEstimator
        Names the step and parameter that cannot be packed, or the features that do not fit.
    """

    def __init__(self, estimator: object, features: Sequence[str]) -> None:
        self._writer = ProgramWriter(features)
        flow = Flow(columns=_raw_columns(estimator, features))
        flow, self.estimator, where = final_estimator(self._writer, flow, estimator, "")
        self.part = f"{where}{type(self.estimator).__name__}"
        self._columns = list(flow.columns)
        self._check_width(len(flow.real))

    def _check_width(self, count: int) -> None:
        expected = getattr(self.estimator, "n_features_in_", count)
        if expected != count:
            raise UnsupportedEstimator(
                self.part, f"was fitted on {expected} columns, but {count} reach it; hand in the features it knows"
            )

    @property
    def width(self) -> int:
        """Columns that the kernel sees, padding included."""
        return len(self._columns)

    @property
    def positions(self) -> Integers:
        """For each of the estimator's own columns, its number among the ``width`` columns.

        Returns
        -------
        ndarray of int64, shape (n_features_in_,)
            Ascending.
        """
        return np.array([i for i, column in enumerate(self._columns) if not column.padding], dtype=np.int64)

    def spread(self, array: NDArray[np.generic], axis: int = -1) -> NDArray[np.generic]:
        """Stretch an array of the estimator's own width to the padded width; padding becomes 0.

        Parameters
        ----------
        array : ndarray
            Its ``axis`` runs along the estimator's own columns.
        axis : int, default=-1
            Which one.

        Returns
        -------
        ndarray
            C-contiguous; ``width`` long along ``axis``.
        """
        positions = self.positions
        if array.shape[axis] != len(positions):
            raise UnsupportedEstimator(
                self.part, f"has parameters for {array.shape[axis]} columns, but {len(positions)} reach it"
            )
        moved = np.moveaxis(array, axis, -1)
        wide = np.zeros((*moved.shape[:-1], self.width), dtype=array.dtype)
        wide[..., positions] = moved
        return np.ascontiguousarray(np.moveaxis(wide, -1, axis))

    def require(self) -> None:
        """From here on a missing value marks the row ``MISSING_VALUE``, an overflow ``INFINITE_VALUE``."""
        self._each(Op.REQUIRE)

    def float32(self) -> None:
        """Round every column to single precision, as scikit-learn's trees do."""
        self._each(Op.FLOAT32)

    def _each(self, op: Op) -> None:
        self._columns = [self._writer.load(column) for column in self._columns]
        for column in self._columns:
            if not column.binary:
                self._writer.write(op, column)

    def encode(self, column: int, categories: NDArray[np.generic] | Sequence[object]) -> None:
        """Replace a column's values by their position in ``categories``.

        Parameters
        ----------
        column : int
            One of the estimator's own columns, from 0 (not a padded position).
        categories : ndarray or sequence
            Texts or numbers. None among them is where missing values go, as scikit-learn's ordinal encoder has it; any
            other missing value is passed over. What is unknown, or missing without a None, becomes NaN.
        """
        position = int(self.positions[column])
        source = self._writer.load(self._columns[position])
        known = [(i, value) for i, value in enumerate(categories) if value is None or not is_missing(value)]
        values = [known_value(value, f"{self.part}, categories of column {column}") for _, value in known]
        write_look_up(
            self._writer, Op.ENCODE, source, source, values, [i for i, _ in known], unknown=-1, part=self.part
        )
        self._columns[position] = replace(source, raw=False, binary=False)

    def model(
        self,
        *,
        family: str,
        task: Task,
        parameters: Mapping[str, NDArray[np.generic]],
        static: Mapping[str, Static],
        classes: NDArray[np.generic] | Sequence[object] | None = None,
    ) -> PackedModel:
        """Close the program and return the packed model.

        Parameters
        ----------
        family : str
            Name of the family.
        task : Task
            What the model predicts.
        parameters : mapping of str to ndarray
            float64, int32 or int64.
        static : mapping of str to str, int, float or bool
            What the family keeps per layout.
        classes : ndarray, optional
            Class labels in the estimator's order; they become str, int or bool.
        """
        program = self._writer.close(self._columns)
        layout = Layout(
            family=family,
            task=task,
            features=tuple(
                Feature(name=self._writer.features[i], kind=kind)
                for i, kind in zip(program.features, program.kinds, strict=True)
            ),
            program=program.steps,
            scratch=program.scratch,
            first=program.first,
            width=program.width,
            slots=len(program.numbers),
            category_slots=program.category_slots,
            static=tuple(sorted(static.items())),
        )
        return PackedModel(
            layout=layout,
            transform=program.numbers,
            categories=program.categories,
            parameters={name: np.ascontiguousarray(array) for name, array in parameters.items()},
            classes=() if classes is None else tuple(_label(label, self.part) for label in classes),
        )


def _raw_columns(estimator: object, features: Sequence[str]) -> list[Column]:
    """The raw features in the order that the estimator was fitted on."""
    if len(set(features)) != len(features):
        raise UnsupportedEstimator("features", f"name a column twice: {list(features)}")
    names = raw_names(estimator)
    if names is None:
        return [Column(feature=i) for i in range(len(features))]
    if set(names) != set(features):
        raise UnsupportedEstimator("features", _difference(names, features))
    return [Column(feature=list(features).index(name)) for name in names]


def _difference(names: Sequence[str], features: Sequence[str]) -> str:
    lacking = [name for name in names if name not in features]
    strange = [name for name in features if name not in names]
    parts = [f"lacking {lacking}"] * bool(lacking) + [f"unknown to the estimator {strange}"] * bool(strange)
    return f"are not those that the estimator was fitted on: {', '.join(parts)}"


def _label(label: object, part: str) -> Label:
    if isinstance(label, str):
        return str(label)
    if isinstance(label, bool | np.bool_):
        return bool(label)
    if isinstance(label, int | np.integer):
        return int(label)
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return int(label)
    raise UnsupportedEstimator(f"{part}, classes_", f"has the label {label!r}; labels are text, integers or booleans")
