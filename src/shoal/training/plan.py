"""What a training will do, before the long work; ``shoal train --dry-run`` shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal.training.candidates import Choice, build, choices
from shoal.training.distribution import Distribution, distribution
from shoal.training.fitting import Assignment
from shoal.training.loading import load
from shoal.training.metrics import Answer
from shoal.training.outliers import Cleaned, clean
from shoal.training.reading import History, Rows, read
from shoal.training.segments import Segments, group
from shoal.training.spec import TrainSpec
from shoal.training.splitting import Division, Role, divide
from shoal.types import Level


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A training that is ready to begin.

    Attributes
    ----------
    spec : TrainSpec
        What is to be done.
    rows : Rows
        The usable rows.
    division : Division
        Which of them to fit on and which to measure on.
    cleaned : Cleaned
        The rows as models are fitted on them.
    levels : tuple of Segments
        The segments of every level, finest first.
    distribution : Distribution
        How rows spread over the finest segments.
    """

    spec: TrainSpec
    rows: Rows
    division: Division
    cleaned: Cleaned
    levels: tuple[Segments, ...]
    distribution: Distribution

    def choices(self, level: int) -> tuple[Choice, ...]:
        """What is tried at a level."""
        kinds = ("all", "segments") if level == 0 else ("all", "fallbacks")
        fitting = [candidate for candidate in self.spec.candidates if candidate.used_for in kinds]
        return choices(fitting)

    def eligible(self, level: int) -> int:
        """How many segments of a level have enough rows to be tried."""
        return int((self.levels[level].train >= self.spec.minimum_rows).sum())

    @property
    def fits(self) -> int:
        """How many times something is fitted, refits left out."""
        return sum(self.eligible(level) * len(self.choices(level)) for level in range(len(self.levels)))

    @property
    def width(self) -> int:
        """Columns of an answer, see :mod:`shoal.training.metrics`."""
        return len(self.rows.labels) if self.spec.measure.answer is Answer.PROBABILITIES else 1

    def assignment(self, level: int, folder: Path) -> Assignment:
        """What the workers are told about a level."""
        spec = self.spec
        return Assignment(
            folder=folder,
            level=level,
            task=spec.task,
            features=self.rows.features,
            labels=self.rows.labels,
            choices=self.choices(level),
            metric=spec.measure.name,
            keeps_always=spec.keeps_always,
            margin=spec.keep.margin,
            minimum_validation_rows=spec.keep.minimum_validation_rows,
            refit=spec.refit,
            maximum_rows=spec.maximum_rows,
            seed=spec.seed,
            missing_values=spec.missing == "keep",
        )

    @property
    def summary(self) -> dict[str, int]:
        """Rows by what becomes of them, for people."""
        return {
            "rows read": self.rows.source_rows,
            "after where and preprocess": self.rows.selected_rows,
            **{f"left out: {reason}": count for reason, count in self.rows.left_out.items()},
            "left out: outside the windows": self.division.count(Role.UNUSED),
            "to train on": self.division.count(Role.TRAIN),
            "to measure on": self.division.count(Role.VALIDATION),
            "outliers": int(self.levels[0].outliers.sum()),
        }


def plan(source: TrainSpec | Mapping[str, object] | str | Path, history: History | None = None) -> Plan:
    """Read a spec and its input.

    Parameters
    ----------
    source : TrainSpec, mapping, or path of a YAML file
        The spec.
    history : callable, optional
        Reads the source of a lookup.

    Raises
    ------
    InvalidSpec
        A field is wrong, a column missing, a candidate cannot be made.
    InvalidInput
        There is no input, it cannot be read, or no row of it can be used.
    """
    spec = load(source)
    rows = read(spec, history)
    division = divide(rows.frame, spec)
    cleaned = clean(rows.frame, division.roles, spec)
    levels = tuple(_segments(rows, division, cleaned, level) for level in spec.levels)
    for choice in choices(spec.candidates):
        build(choice, rows.features)
    return Plan(
        spec=spec,
        rows=rows,
        division=division,
        cleaned=cleaned,
        levels=levels,
        distribution=distribution(rows.frame, levels[0], spec),
    )


def _segments(rows: Rows, division: Division, cleaned: Cleaned, level: Level) -> Segments:
    return group(
        rows.frame, rows.keys, level, division.roles, outlying=cleaned.outlying, dropped=cleaned.dropped
    )  # fmt: skip
