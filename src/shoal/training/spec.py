"""What a training should do: the fields of a YAML file and of a Python call alike."""

import datetime as dt
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias, cast

import msgspec
import yaml

from shoal.errors import InvalidSpec
from shoal.storage.query import check_predicate, check_preprocess
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
        """The spec as plain JSON values; :func:`load` reads it back."""
        return cast("dict[str, Json]", msgspec.to_builtins(self))


def load(source: "TrainSpec | Mapping[str, object] | str | Path") -> TrainSpec:
    """Read and check a spec.

    Parameters
    ----------
    source : TrainSpec, mapping, or path of a YAML file
        A mapping has the fields of :class:`TrainSpec`; a list of one text may be given as that text.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    """
    if isinstance(source, Path | str):
        source = _read_yaml(Path(source))
    if not isinstance(source, TrainSpec):
        source = _convert(source)
    for problem in _problems(source):
        raise InvalidSpec(problem)
    return source


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpec(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, Mapping):
        raise InvalidSpec(f"{path}: write fields such as 'fleet: NAME', one per line")
    return document


def _convert(document: Mapping[str, object]) -> TrainSpec:
    values = {str(name): _plain(value) for name, value in document.items()}
    for name in ("input", "keys", "features", "tags"):
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    known = TrainSpec.__struct_encode_fields__
    for name in sorted(set(values) - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise InvalidSpec(f"field {name!r} is not known: {advice}")
    try:
        return msgspec.convert(values, TrainSpec)
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"the training's description does not fit: {error}") from error


def _plain(value: object) -> object:
    """YAML reads dates as dates, Python callers give paths and tuples: bring them to text and lists."""
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _problems(spec: TrainSpec) -> Iterator[str]:
    """What is wrong with a spec, as far as that shows without its input."""
    yield from _problems_of_columns(spec)
    yield from _problems_of_levels(spec)
    yield from _problems_of_numbers(spec)
    yield from _problems_of_split(spec)
    yield from _problems_of_metric(spec)
    yield from _problems_of_candidates(spec)
    if spec.where is not None:
        check_predicate(spec.where)
    if spec.preprocess is not None:
        check_preprocess(spec.preprocess)


def _problems_of_columns(spec: TrainSpec) -> Iterator[str]:
    if not spec.fleet.strip():
        yield "field 'fleet' is empty: name the fleet that the models are registered under"
    if not spec.input or "" in spec.input:
        yield "field 'input': name at least one file, folder or glob, and no empty one"
    if not spec.features:
        yield "field 'features' is empty: name at least one column"
    if spec.task is Task.ANOMALY and spec.target is not None:
        yield "field 'target': an anomaly fleet learns without one; leave it out"
    if spec.task is not Task.ANOMALY and spec.target is None:
        yield f"field 'target' is missing: name the column that {spec.task} predicts"
    named = [*spec.keys, *spec.features, *([spec.target] if spec.target else [])]
    for name in named:
        if named.count(name) > 1:
            yield f"column {name!r} is named twice among keys, features and target"
    for name in spec.outliers.columns if spec.outliers else ():
        if name not in (*spec.features, spec.target):
            yield f"field 'outliers.columns': {name!r} is neither a feature nor the target"


def _problems_of_levels(spec: TrainSpec) -> Iterator[str]:
    for level in spec.fallback or ():
        for name in level:
            if name not in spec.keys:
                yield f"field 'fallback': {name!r} is not among the keys {list(spec.keys)}"
        if len(set(level)) >= len(spec.keys):
            yield f"field 'fallback': the level {list(level)} is not coarser than the keys {list(spec.keys)}"
    if len(set(spec.levels)) != len(spec.levels):
        yield "field 'fallback' names a level twice"


def _problems_of_numbers(spec: TrainSpec) -> Iterator[str]:
    least: dict[str, tuple[float | None, float]] = {
        "minimum_rows": (spec.minimum_rows, 1),
        "maximum_rows": (spec.maximum_rows, spec.minimum_rows),
        "processes": (spec.processes, 1),
        "timeout_s": (spec.timeout_s, 0.001),
        "keep.margin": (spec.keep.margin, 0),
        "keep.minimum_validation_rows": (spec.keep.minimum_validation_rows, 1),
        "outliers.factor": (spec.outliers.factor if spec.outliers else None, 0),
        "seed": (spec.seed, 0),
    }
    for name, (value, lowest) in least.items():
        if value is not None and not value >= lowest:
            yield f"field {name!r} is {value:g}: it must be at least {lowest:g}"


def _problems_of_split(spec: TrainSpec) -> Iterator[str]:
    split = spec.split
    if (split.fraction is None) == (split.validation is None):
        yield "field 'split' needs either 'fraction' or, with 'time', a 'validation' window"
    if split.fraction is not None and not 0 < split.fraction < 1:
        yield f"field 'split.fraction' is {split.fraction:g}: it must lie between 0 and 1"
    if (split.train or split.validation) and split.time is None:
        yield "field 'split': windows need 'time', the name of the column they are about"
    if split.train and not split.validation:
        yield "field 'split.train' needs 'validation', the window to measure on"
    for name, window in (("train", split.train), ("validation", split.validation)):
        for text in (window.from_, window.until) if window else ():
            if text is not None and parse_time(text) is None:
                yield f"field 'split.{name}': {text!r} is not a date or time; write e.g. 2026-11-21"
    if split.validation and split.validation.from_ is None:
        yield "field 'split.validation' needs 'from': training must end where it begins"
    yield from _leaks(split)


def _leaks(split: Split) -> Iterator[str]:
    """Rows later than the first held-out one must not be trained on."""
    if not (split.train and split.train.until and split.validation and split.validation.from_):
        return
    end, begin = parse_time(split.train.until), parse_time(split.validation.from_)
    if end and begin and (end.tzinfo is None) == (begin.tzinfo is None) and end > begin:
        yield (
            f"field 'split': training until {split.train.until} would see rows of the validation window, which begins "
            f"at {split.validation.from_}; end training there or earlier"
        )


def _problems_of_metric(spec: TrainSpec) -> Iterator[str]:
    fitting = sorted(metric.name for metric in METRICS.values() if spec.task in metric.tasks)
    if spec.metric is not None and spec.metric not in fitting:
        yield f"field 'metric': {spec.metric!r} does not measure {spec.task}; choose one of {', '.join(fitting)}"


def _problems_of_candidates(spec: TrainSpec) -> Iterator[str]:
    if not spec.candidates:
        yield "field 'candidates' is empty: name at least one estimator to try"
    names = [candidate.name for candidate in spec.candidates]
    for candidate in spec.candidates:
        if names.count(candidate.name) > 1:
            yield f"field 'candidates': two are called {candidate.name!r}"
        if not candidate.steps:
            yield f"candidate {candidate.name!r} has no steps"
        for parameter, values in candidate.grid.items():
            if not values:
                yield f"candidate {candidate.name!r}: its grid gives no value for {parameter!r}"
    kinds = {candidate.used_for for candidate in spec.candidates}
    if kinds == {"fallbacks"}:
        yield "field 'candidates': none is for the segments; set used_for: all"
    if kinds == {"segments"} and len(spec.levels) > 1:
        yield "field 'candidates': none is for the fallback levels; set used_for: all, or write fallback: [] for none"


def parse_time(text: str) -> dt.datetime | None:
    """Time of an ISO date or time, or None."""
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None
