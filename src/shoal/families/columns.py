"""Writing a column-transform program while walking a fitted pipeline."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.kernels.program import Op
from shoal.types import FeatureKind, Floats

Number = float | str
"""A number of the program, or a text whose code is filled in when the program is closed."""

Step = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column on its way to the final estimator.

    Attributes
    ----------
    feature : int
        The raw feature it stems from.
    place : int
        Its column of the scratch; -1 while it has not been loaded.
    raw : bool
        Whether it holds the feature's own values (perhaps imputed), hence codes if the feature is text.
    binary : bool
        Whether it can hold nothing but 0 and 1.
    padding : bool
        Whether it is always 0 and unknown to the estimator: it only makes layouts of different width equal.
    """

    feature: int
    place: int = -1
    raw: bool = True
    binary: bool = False
    padding: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedProgram:
    """A finished program with the model's own numbers; the fields are those of Layout and PackedModel."""

    features: tuple[int, ...]
    kinds: tuple[FeatureKind, ...]
    steps: tuple[Step, ...]
    scratch: int
    first: int
    width: int
    numbers: Floats
    category_slots: tuple[tuple[int, int], ...]
    categories: tuple[tuple[str, ...], ...]


class ProgramWriter:
    """Collects the steps and numbers of one model's program.

    Parameters
    ----------
    features : sequence of str
        Names of the raw features.
    """

    def __init__(self, features: Sequence[str]) -> None:
        self.features = tuple(features)
        self.scratch = 0
        self._steps: list[Step] = []
        self._numbers: list[Number] = []
        self._text_slots: list[tuple[int, int]] = []
        self._kinds: dict[int, FeatureKind] = {}

    def claim(self, feature: int, kind: FeatureKind) -> None:
        """Note how a feature's values are used; refuses one that is used as text and as a number."""
        if self._kinds.setdefault(feature, kind) is not kind:
            raise UnsupportedEstimator(
                f"feature {self.features[feature]!r}",
                "is used as text in one place and as a number in another; hand it in as two columns",
            )

    def numeric(self, column: Column) -> None:
        """Note that arithmetic is done on a column."""
        if column.raw:
            self.claim(column.feature, FeatureKind.NUMERIC)

    def reserve(self, width: int = 1) -> int:
        """The first of ``width`` new neighbouring scratch columns."""
        self.scratch += width
        return self.scratch - width

    def write(
        self,
        op: Op,
        target: Column,
        numbers: Iterable[Number] = (),
        *,
        source: int | None = None,
        width: int = 1,
        count: int = 0,
        coded: range | None = None,
    ) -> None:
        """Append a step.

        Parameters
        ----------
        op : Op
            The operation.
        target : Column
            The column it works on; names the feature, too.
        numbers : iterable of float or str
            What the step reads from the model's row of ``transform``.
        source : int, optional
            The column it reads, if that is another one.
        width, count : int
            See :mod:`shoal.kernels.program`.
        coded : range, optional
            Which of the numbers are category codes.
        """
        slot = len(self._numbers)
        self._numbers.extend(numbers)
        self._text_slots.extend((slot + i, target.feature) for i in coded or ())
        place = target.place if source is None else source
        self._steps.append((int(op), place, target.place, width, slot, count, target.feature))

    def load(self, column: Column) -> Column:
        """The same column, in the scratch."""
        if column.place >= 0:
            return column
        loaded = replace(column, place=self.reserve())
        self.write(Op.LOAD, loaded, source=column.feature)
        return loaded

    def copy(self, column: Column) -> Column:
        """A column of its own with the same values; what was not loaded yet is loaded again when needed."""
        if column.place < 0:
            return column
        copied = replace(column, place=self.reserve())
        self.write(Op.COPY, copied, source=column.place)
        return copied

    def calculate(self, op: Op, column: Column, part: str, *numbers: float) -> Column:
        """Do arithmetic on a column; its numbers must be finite."""
        self.numeric(column)
        loaded = self.load(column)
        self.write(op, loaded, (finite(number, part) for number in numbers))
        return replace(loaded, binary=False)

    def close(self, columns: Sequence[Column]) -> ClosedProgram:
        """Finish with ``columns`` as the final estimator's inputs."""
        for column in columns:
            self.numeric(column)
        first = self._gather([self.load(column).place for column in columns])
        used = sorted({step[6] for step in self._steps})
        number = {feature: i for i, feature in enumerate(used)}
        categories = [self._texts(feature) for feature in used]
        return ClosedProgram(
            features=tuple(used),
            kinds=tuple(self._kinds.get(feature, FeatureKind.NUMERIC) for feature in used),
            steps=tuple(_renumbered(step, number) for step in self._steps),
            scratch=self.scratch,
            first=first,
            width=len(columns),
            numbers=self._coded(number, categories),
            category_slots=tuple((slot, number[f]) for slot, f in self._text_slots if f in self._text_features()),
            categories=tuple(categories),
        )

    def _gather(self, places: list[int]) -> int:
        """Make the estimator's inputs neighbours, by renaming scratch columns or else by copies; returns the first."""
        order = [*places, *sorted(set(range(self.scratch)) - set(places))]
        new = {old: i for i, old in enumerate(order)}
        if len(order) == self.scratch and all(_stays_whole(step, new) for step in self._steps):
            self._steps = [_moved(step, new) for step in self._steps]
            return 0
        first = self.reserve(len(places))
        owners = {step[2] + i: step[6] for step in self._steps for i in range(step[3])}
        for i, place in enumerate(places):
            target = Column(feature=owners[place], place=first + i)
            self.write(Op.COPY, target, source=place)
        return first

    def _text_features(self) -> set[int]:
        return {feature for feature, kind in self._kinds.items() if kind is FeatureKind.CATEGORY}

    def _texts(self, feature: int) -> tuple[str, ...]:
        if feature not in self._text_features():
            return ()
        numbers = (self._numbers[slot] for slot, owner in self._text_slots if owner == feature)
        return tuple(sorted({number for number in numbers if isinstance(number, str)}))

    def _coded(self, number: dict[int, int], categories: Sequence[Sequence[str]]) -> Floats:
        """The numbers, with every text replaced by its code."""
        coded = list(self._numbers)
        codes = [{text: float(code) for code, text in enumerate(texts)} for texts in categories]
        for slot, feature in self._text_slots:
            if isinstance(text := coded[slot], str):
                coded[slot] = codes[number[feature]][text]
        return np.array(coded, dtype=np.float64)


def _stays_whole(step: Step, new: dict[int, int]) -> bool:
    """Whether the columns that a step writes remain neighbours."""
    target, width = step[2], step[3]
    return all(new[target + i] == new[target] + i for i in range(width))


def _moved(step: Step, new: dict[int, int]) -> Step:
    op, source, target, width, slot, count, feature = step
    return (op, source if op == Op.LOAD else new[source], new[target], width, slot, count, feature)


def _renumbered(step: Step, number: dict[int, int]) -> Step:
    op, source, target, width, slot, count, feature = step
    return (op, number[source] if op == Op.LOAD else source, target, width, slot, count, number[feature])


def finite(value: object, part: str) -> float:
    """A fitted number as a float; refuses NaN and infinity."""
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise UnsupportedEstimator(part, f"is {number}; fit it again on data with finite values")
    return number
