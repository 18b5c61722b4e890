"""From a spec's input to rows that can be trained on, and what was left out and why."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from polars.exceptions import PolarsError

from shoal.errors import InvalidInput, InvalidSpec
from shoal.requests.point_in_time import join, key_type_of
from shoal.requests.spec import LookupSpec
from shoal.storage.query import apply_preprocess, predicate
from shoal.storage.tables import find_tables, pin_table, scan_table, scan_tables
from shoal.training.spec import TrainLookup, TrainSpec
from shoal.types import Feature, FeatureKind, InputFile, KeyColumn, KeyType, Label, Task

History = Callable[[LookupSpec, Mapping[str, KeyType]], pl.DataFrame]
"""Reads all rows of a lookup's source: the spec, and the types of the source's key columns."""

_TEXTS = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows to train on and to measure with.

    Attributes
    ----------
    frame : polars.DataFrame
        Key columns in their types, features as float64 or text, the target (float64, or a label), the time to split
        by. In an order that does not depend on how the input was read: by key, then time, then everything else.
    keys : tuple of KeyColumn
        The key columns.
    features : tuple of Feature
        The features.
    labels : tuple of Label
        The sorted labels of the target; empty unless the task is classification.
    inputs : tuple of InputFile
        The files that were read, pinned by their digests.
    source_rows : int
        Rows in the files.
    selected_rows : int
        Rows after ``where`` and ``preprocess``.
    left_out : mapping of str to int
        How many of those cannot be used, by the first reason that applies to a row.
    """

    frame: pl.DataFrame
    keys: tuple[KeyColumn, ...]
    features: tuple[Feature, ...]
    labels: tuple[Label, ...]
    inputs: tuple[InputFile, ...]
    source_rows: int
    selected_rows: int
    left_out: Mapping[str, int]


def read(spec: TrainSpec, history: History | None = None) -> Rows:
    """Read the input of a training.

    Parameters
    ----------
    spec : TrainSpec
        What is to be read.
    history : callable, optional
        Reads the source of a lookup.

    Raises
    ------
    InvalidSpec
        A column is missing or of a type that cannot be what the spec says it is.
    InvalidInput
        There is no input, it cannot be read, or no row of it can be used.
    """
    files = find_tables(spec.input)
    inputs = tuple(pin_table(file, rows=_count(scan_table(file, spec.format))) for file in files)
    frame = scan_tables(files, spec.format)
    if spec.where is not None:
        frame = frame.filter(predicate(spec.where))
    if spec.preprocess is not None:
        frame = apply_preprocess(spec.preprocess, frame)
    if spec.lookup is not None:
        frame = _looked_up(frame, spec, spec.lookup, history)
    schema = _schema(frame)
    _require_columns(spec, schema)
    selected = _collect(frame.select(_typed_columns(spec, schema)))
    usable, left_out = _usable(selected, spec)
    return Rows(
        frame=usable.sort(usable.columns),
        keys=tuple(KeyColumn(name=name, type=_key_type(name, schema[name])) for name in spec.keys),
        features=tuple(Feature(name=name, kind=_feature_kind(name, schema[name])) for name in spec.features),
        labels=_labels(usable, spec),
        inputs=inputs,
        source_rows=sum(file.rows or 0 for file in inputs),
        selected_rows=selected.height,
        left_out=left_out,
    )


def _looked_up(frame: pl.LazyFrame, spec: TrainSpec, lookup: TrainLookup, history: History | None) -> pl.LazyFrame:
    """The input with the features that a source had at the time of each row."""
    if history is None:
        raise InvalidSpec("field 'lookup': sources have their names in a workspace; train with Workspace.train")
    schema = _schema(frame)
    missing = [name for name in [*lookup.keys, *_optional(lookup.time)] if name not in schema]
    if missing:
        raise InvalidSpec(f"the input has no column {missing[0]!r}, which 'lookup' goes by; it has {', '.join(schema)}")
    if lookup.time is not None:
        _refuse_odd_time("lookup.time", lookup.time, schema[lookup.time])
    types = {source: key_type_of(name, schema[name]) for name, source in lookup.keys.items()}
    used = [*spec.keys, *spec.features, *_optional(spec.target), *_optional(spec.split.time)]
    kept = dict.fromkeys(name for name in used if name not in lookup.features)
    needed = dict.fromkeys([*kept, *lookup.keys, *_optional(lookup.time)])
    rows = _collect(frame.select(name for name in needed if name in schema))
    joined = join(rows, history(lookup, types), lookup, lookup.time)
    return joined.lazy()


def _schema(frame: pl.LazyFrame) -> pl.Schema:
    try:
        return frame.collect_schema()
    except PolarsError as error:
        raise InvalidSpec(f"field 'where' or 'preprocess' does not fit the input: {error}") from error


def _collect(frame: pl.LazyFrame) -> pl.DataFrame:
    try:
        return frame.collect()
    except (PolarsError, OSError) as error:
        raise InvalidInput(f"the input cannot be read: {error}") from error


def _count(frame: pl.LazyFrame) -> int:
    return int(_collect(frame.select(pl.len())).item())


def _require_columns(spec: TrainSpec, schema: pl.Schema) -> None:
    wanted = [*spec.keys, *spec.features, *_optional(spec.target), *_optional(spec.split.time)]
    missing = sorted({name for name in wanted if name not in schema})
    if missing:
        raise InvalidSpec(f"the input has no column {', '.join(map(repr, missing))}; it has {', '.join(schema)}")


def _optional(name: str | None) -> Sequence[str]:
    return [] if name is None else [name]


def _typed_columns(spec: TrainSpec, schema: pl.Schema) -> list[pl.Expr]:
    """Every column that is used, each once: keys first, then the time, features and target."""
    columns = {name: _key(name, schema[name]) for name in spec.keys}
    if spec.split.time is not None:
        _refuse_odd_time("split.time", spec.split.time, schema[spec.split.time])
        columns.setdefault(spec.split.time, pl.col(spec.split.time))
    for name in spec.features:
        columns[name] = _feature(name, schema[name])
    if spec.target is not None:
        columns[spec.target] = _target(spec, schema[spec.target])
    return list(columns.values())


def _key_type(name: str, dtype: pl.DataType) -> KeyType:
    if dtype in _TEXTS:
        return KeyType.STRING
    if dtype.is_integer():
        return KeyType.INTEGER
    for plain, key in ((pl.Boolean, KeyType.BOOLEAN), (pl.Date, KeyType.DATE)):
        if dtype == plain:
            return key
    raise InvalidSpec(
        f"key {name!r} is {dtype}: a key is a text, an integer, a boolean or a date; convert it with 'preprocess'"
    )


def _key(name: str, dtype: pl.DataType) -> pl.Expr:
    types: Mapping[KeyType, type[pl.DataType]] = {KeyType.STRING: pl.String, KeyType.INTEGER: pl.Int64}
    kind = _key_type(name, dtype)
    return pl.col(name).cast(types[kind]) if kind in types else pl.col(name)


def _feature_kind(name: str, dtype: pl.DataType) -> FeatureKind:
    if dtype in _TEXTS:
        return FeatureKind.CATEGORY
    if dtype.is_numeric() or dtype == pl.Boolean:
        return FeatureKind.NUMERIC
    raise InvalidSpec(f"feature {name!r} is {dtype}: models take numbers and texts; convert it with 'preprocess'")


def _feature(name: str, dtype: pl.DataType) -> pl.Expr:
    text = _feature_kind(name, dtype) is FeatureKind.CATEGORY
    return pl.col(name).cast(pl.String) if text else pl.col(name).cast(pl.Float64).fill_nan(None)


def _target(spec: TrainSpec, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(spec.target or "")
    if spec.task is Task.REGRESSION:
        if not (dtype.is_numeric() or dtype == pl.Boolean):
            raise InvalidSpec(f"target {spec.target!r} is {dtype}: regression predicts numbers")
        return column.cast(pl.Float64).fill_nan(None)
    if dtype in _TEXTS:
        return column.cast(pl.String)
    if dtype.is_integer():
        return column.cast(pl.Int64)
    if dtype == pl.Boolean:
        return column
    raise InvalidSpec(
        f"target {spec.target!r} is {dtype}: a class is a text, an integer or a boolean; convert it with 'preprocess'"
    )


def _refuse_odd_time(field: str, name: str, dtype: pl.DataType) -> None:
    if dtype != pl.Date and not isinstance(dtype, pl.Datetime):
        raise InvalidSpec(f"field '{field}': {name!r} is {dtype}, not a date or time; convert it with 'preprocess'")


def _labels(frame: pl.DataFrame, spec: TrainSpec) -> tuple[Label, ...]:
    if spec.task is not Task.CLASSIFICATION:
        return ()
    labels = tuple(frame[spec.target or ""].unique().sort().to_list())
    if len(labels) < 2:
        raise InvalidInput(f"target {spec.target!r} has only the class {labels[0]!r}: there is nothing to tell apart")
    return labels


def _usable(frame: pl.DataFrame, spec: TrainSpec) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows that can be used, and how many cannot, by reason."""
    left_out: dict[str, int] = {}
    for reason, bad in _unusable(frame, spec):
        kept = frame.filter(~bad)
        if kept.height < frame.height:
            left_out[reason] = frame.height - kept.height
        frame = kept
    if not frame.height:
        why = ", ".join(f"{count:,} with a {reason}" for reason, count in left_out.items()) or "it is empty"
        raise InvalidInput(f"no row of the input can be used: {why}")
    return frame, left_out


def _unusable(frame: pl.DataFrame, spec: TrainSpec) -> Iterator[tuple[str, pl.Expr]]:
    numbers = [name for name in spec.features if frame.schema[name] == pl.Float64]
    if spec.task is Task.REGRESSION:
        numbers.append(spec.target or "")
    for reason, names in (
        ("missing key", spec.keys),
        ("missing time", _optional(spec.split.time)),
        ("missing target", _optional(spec.target)),
        ("missing feature", spec.features if spec.missing == "drop" else ()),
    ):
        if names:
            yield reason, pl.any_horizontal(pl.col(names).is_null())
    if numbers:
        yield "infinite value", pl.any_horizontal(pl.col(numbers).is_infinite().fill_null(False))
