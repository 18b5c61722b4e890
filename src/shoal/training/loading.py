"""Reading a spec and finding what is wrong with it, as far as that shows without its input."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from shoal.errors import InvalidSpec
from shoal.requests.loading import named, problems_of_lookup
from shoal.storage.documents import load_document, read_document
from shoal.storage.query import check_predicate, check_preprocess
from shoal.times import iso_time
from shoal.training.metrics import METRICS
from shoal.training.spec import Split, TrainSpec
from shoal.types import Task


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
    if isinstance(source, str | Path):
        source = read_document(Path(source))
    if isinstance(source, Mapping) and isinstance(source.get("lookup"), Mapping):
        source = {**source, "lookup": named(cast("Mapping[str, object]", source["lookup"]))}
    spec = load_document(source, TrainSpec, lists=("input", "keys", "features", "tags"))
    for problem in _problems(spec):
        raise InvalidSpec(problem)
    return spec


def _problems(spec: TrainSpec) -> Iterator[str]:
    """What is wrong with a spec, as far as that shows without its input."""
    yield from _problems_of_columns(spec)
    yield from _problems_of_levels(spec)
    yield from _problems_of_numbers(spec)
    yield from _problems_of_split(spec)
    yield from _problems_of_metric(spec)
    yield from _problems_of_candidates(spec)
    yield from _problems_of_lookup(spec)
    if spec.where is not None:
        check_predicate(spec.where)
    if spec.preprocess is not None:
        check_preprocess(spec.preprocess)


def _problems_of_lookup(spec: TrainSpec) -> Iterator[str]:
    lookup = spec.lookup
    if lookup is None:
        return
    yield from problems_of_lookup(lookup)
    for name in lookup.features:
        if name not in spec.features:
            yield f"field 'lookup.features': {name!r} is not among the features {list(spec.features)}"
    if lookup.static == (lookup.time is not None):
        yield (
            "field 'lookup' needs 'time', the input's column with the time of each row, and 'as_of', the source's, so "
            "that no row sees its future; or static: true if the features never change"
        )
    if lookup.time is not None and lookup.as_of is None:
        yield "field 'lookup.time' needs 'as_of', the source's column that says from when on a row held"


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
            if text is not None and iso_time(text) is None:
                yield f"field 'split.{name}': {text!r} is not a date or time; write e.g. 2026-11-21"
    if split.validation and split.validation.from_ is None:
        yield "field 'split.validation' needs 'from': training must end where it begins"
    yield from _leaks(split)


def _leaks(split: Split) -> Iterator[str]:
    """Rows later than the first held-out one must not be trained on."""
    if not (split.train and split.train.until and split.validation and split.validation.from_):
        return
    end, begin = iso_time(split.train.until), iso_time(split.validation.from_)
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
