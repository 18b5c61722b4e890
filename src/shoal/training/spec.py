"""What a training should do: the fields of a YAML file and of a Python call alike."""

from typing import Literal, TypeAlias, cast

import msgspec

from shoal.requests.spec import LookupSpec
from shoal.training.metrics import METRICS, Metric, default_metric
from shoal.types import Json, Level, Task

InputFormat = Literal["auto", "parquet", "csv", "jsonl"]
Step: TypeAlias = str | dict[str, object]


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A stretch of time, ``[from, until)``; ISO dates or times, read in the column's own zone where they name none.

    Attributes
    ----------
    from_, until : str, optional
        Its ends; open where left out.
    """

    from_: str | None = None
    until: str | None = None


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows are held out to measure models on; the same rows at every level.

    Attributes
    ----------
    fraction : float, optional
        Share of the rows to hold out: of every segment, drawn by the seed; with ``time``, the latest of all.
    time : str, optional
        Column to split by.
    train, validation : Window, optional
        With ``time`` and instead of ``fraction``: which rows to train on (by default all before ``validation``) and
        which to measure on. Rows in neither are not used.
    """

    fraction: float | None = None
    time: str | None = None
    train: Window | None = None
    validation: Window | None = None


class Outliers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done with outlying values in the rows that models are fitted on, segment by segment.

    Attributes
    ----------
    rule : {"mad", "iqr"}
        ``mad``: farther from the median than ``factor`` times the scaled median absolute deviation. ``iqr``: farther
        outside the quartiles than ``factor`` times their distance.
    factor : float, optional
        By default 3.5 for ``mad`` and 1.5 for ``iqr``.
    action : {"drop", "clip"}
        Leave the row out, or move the value to the border.
    columns : tuple of str
        Which numeric columns to look at; by default the target, or all features where there is none.
    """

    rule: Literal["mad", "iqr"]
    factor: float | None = None
    action: Literal["drop", "clip"] = "drop"
    columns: tuple[str, ...] = ()

    @property
    def reach(self) -> float:
        """The factor in use."""
        return self.factor if self.factor is not None else {"mad": 3.5, "iqr": 1.5}[self.rule]


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An algorithm to try in every segment.

    Attributes
    ----------
    name : str
        What reports call it.
    steps : tuple of Step
        Import paths, each alone or with its parameters: ``sklearn.linear_model.Ridge`` or
        ``{sklearn.linear_model.Ridge: {alpha: 1}}``. Several become a pipeline. A step ``{columns: [...]}`` is a
        ColumnTransformer: a list of ``{features: numbers | texts | [names], steps: [...]}``.
    grid : mapping of str to list
        Parameters to try, every combination, by scikit-learn's names: ``ridge__alpha: [0.1, 1]``.
    used_for : {"all", "segments", "fallbacks"}
        On which levels to try it.
    """

    name: str
    steps: tuple[Step, ...]
    grid: dict[str, list[object]] = {}
    used_for: Literal["all", "segments", "fallbacks"] = "all"


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a segment keeps a model of its own.

    Attributes
    ----------
    rule : {"better", "always"}, optional
        ``better``: only where it beats its fallback on the held-out rows. ``always``: whenever it could be trained,
        the default for anomaly fleets, in which nothing says which of two models is right.
    margin : float
        By how much it has to be better: a share of the fallback's error, or, for metrics of which more is better, so
        many units.
    minimum_validation_rows : int
        Held-out rows below which a comparison counts for nothing.
    """

    rule: Literal["better", "always"] | None = None
    margin: float = 0.0
    minimum_validation_rows: int = 10


class TrainLookup(LookupSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Features by key, as a serving spec describes them, and what only training has to know.

    Attributes
    ----------
    time : str, optional
        The input's column with the time of each row: it gets what the source had then, by its column ``as_of``.
    static : bool
        Instead: the features never change, so what the source has now is what it had then.
    """

    time: str | None = None
    static: bool = False


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training.

    Attributes
    ----------
    fleet : str
        Name under which the models are registered.
    input : tuple of str
        Files, folders and globs of Parquet, CSV and JSON lines.
    format : str
        Format of the input; ``auto`` goes by each file's ending.
    preprocess : str, optional
        One SQL query over the table ``input``, or ``module:function`` from LazyFrame to LazyFrame.
    where : str, optional
        SQL predicate; rows for which it is not true are not used. Applied before ``preprocess``.
    keys : tuple of str
        The segment key's columns; none for a single model.
    features : tuple of str
        What models look at: numbers and texts.
    lookup : TrainLookup, optional
        Features that are not in the input but in a named source, joined as they were at the time of each row. After
        ``where`` and ``preprocess``.
    target : str, optional
        What they predict; none for anomaly.
    task : Task
        ``regression``, ``classification`` or ``anomaly``.
    missing : {"drop", "keep"}
        What becomes of rows with a missing feature; ``keep`` needs candidates that take missing values.
    split : Split, optional
        Rows to hold out, by default a fifth of every segment.
    outliers : Outliers, optional
        What is done with outlying values.
    candidates : tuple of Candidate
        What to try.
    metric : str, optional
        What decides; by default ``mae``, ``log_loss`` or ``flagged``.
    minimum_rows : int
        Training rows below which a segment is not tried.
    maximum_rows : int, optional
        A model is fitted on at most so many rows, drawn by the seed; bounds the cost of global models.
    fallback : tuple of tuple of str
        Coarser levels, finer first, e.g. ``[[dest], []]``; by default ``[[]]``, one global model.
    keep : Keep
        When a segment keeps its own model.
    refit : bool
        Whether a kept model is fitted once more with the held-out rows.
    seed : int
        Makes everything random repeatable.
    timeout_s : float
        Longest time that one model may take.
    processes : int, optional
        How many to work with; does not change the result.
    promote : bool or str
        Move the alias (``true``: ``champion``) to the new snapshot if it does better than the present one.
    description, category : str
        About the fleet.
    tags : tuple of str
        Likewise.
    """

    fleet: str
    input: tuple[str, ...]
    features: tuple[str, ...]
    task: Task
    candidates: tuple[Candidate, ...]
    keys: tuple[str, ...] = ()
    target: str | None = None
    format: InputFormat = "auto"
    preprocess: str | None = None
    where: str | None = None
    lookup: TrainLookup | None = None
    missing: Literal["drop", "keep"] = "drop"
    split: Split = Split(fraction=0.2)
    outliers: Outliers | None = None
    metric: str | None = None
    minimum_rows: int = 20
    maximum_rows: int | None = None
    fallback: tuple[tuple[str, ...], ...] | None = None
    keep: Keep = Keep()
    refit: bool = False
    seed: int = 0
    timeout_s: float = 600.0
    processes: int | None = None
    promote: bool | str = False
    description: str | None = None
    category: str | None = None
    tags: tuple[str, ...] | None = None

    @property
    def levels(self) -> tuple[Level, ...]:
        """The segments' own level, then the coarser ones, finer first."""
        if self.fallback is None:
            return (self.keys, ()) if self.keys else ((),)
        coarser = [tuple(key for key in self.keys if key in level) for level in self.fallback]
        return (self.keys, *sorted(coarser, key=len, reverse=True))

    @property
    def measure(self) -> Metric:
        """The metric in use."""
        return METRICS[self.metric] if self.metric is not None else default_metric(self.task)

    @property
    def keeps_always(self) -> bool:
        """Whether a model is kept without being better than its fallback."""
        rule = self.keep.rule or ("always" if self.task is Task.ANOMALY else "better")
        return rule == "always"

    @property
    def alias(self) -> str | None:
        """The alias to move."""
        if isinstance(self.promote, str):
            return self.promote
        return "champion" if self.promote else None

    def document(self) -> dict[str, Json]:
        """The spec as plain JSON values; :func:`shoal.training.loading.load` reads it back."""
        return cast("dict[str, Json]", msgspec.to_builtins(self))
