"""Business rules: what is decided from a model's answer, by thresholds and by SQL expressions over one row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PolarsError

from shoal.errors import InvalidSpec
from shoal.requests.outputs import Columns, probability_columns, with_probabilities, without
from shoal.requests.spec import FleetSchema, Rule, ServingSpec, Threshold, Value
from shoal.requests.violations import Violations, first_reasons
from shoal.storage.query import row_expression
from shoal.types import RESERVED_COLUMNS, Task

_LONGEST = 200


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Applied:
    """What rules made of a batch.

    Attributes
    ----------
    columns : Columns
        With the outputs that rules computed; where a rule failed, all outputs of the row are null.
    failed : Violations or None
        Rows on which a rule failed.
    """

    columns: Columns
    failed: Violations | None


class Rules:
    """The rules of one fleet, compiled once and used for every batch; safe to use from several threads.

    Parameters
    ----------
    spec : ServingSpec
        Its threshold and rules.
    schema : FleetSchema
        The fleet's columns.

    Attributes
    ----------
    outputs : mapping of str to polars.DataType
        The output columns after the rules: the task's, then those that rules add (Float64, Int64, Boolean or String).

    Raises
    ------
    InvalidSpec
        An expression is none, names a column that there is not, looks at other rows, or gives a type that no output
        can have; the message names the field.
    """

    def __init__(self, spec: ServingSpec, schema: FleetSchema) -> None:
        self._schema = schema
        self._threshold = _threshold(spec.threshold, schema)
        self.outputs: dict[str, pl.DataType] = dict(schema.outputs)
        self._rules: list[_Compiled] = []
        visible = {**schema.inputs, **probability_columns(schema), "outcome": pl.String(), **schema.outputs}
        for number, rule in enumerate(spec.rules, 1):
            compiled = _compile(rule, number, visible, schema)
            self._rules.append(compiled)
            self.outputs |= compiled.types
            visible |= compiled.types

    @property
    def columns(self) -> set[str]:
        """What the rules look at: inputs, outputs and ``outcome``."""
        return {name for rule in self._rules for name in rule.columns}

    @property
    def added(self) -> dict[str, pl.DataType]:
        """The output columns beyond the task's."""
        return {name: dtype for name, dtype in self.outputs.items() if name not in self._schema.outputs}

    def __bool__(self) -> bool:
        return bool(self._rules) or self._threshold is not None

    def apply(self, columns: Columns) -> Applied:
        """Compute the outputs.

        Parameters
        ----------
        columns : Columns
            The task's outputs, and what else :attr:`columns` names; ``outcome`` as a word.
        """
        if self._threshold is not None:
            columns = {**columns, **_decide(columns, self._threshold, self._schema)}
        failures: list[Mapping[int, str]] = []
        for rule in self._rules:
            computed, reasons = rule.run(columns, self._schema)
            columns = {**columns, **computed}
            failures.append(reasons)
        failed = Violations.of(first_reasons(failures), len(columns[self._schema.answer]))
        if failed is not None:
            columns = {**columns, **{name: without(columns[name], failed.rows) for name in self.outputs}}
        return Applied(columns=columns, failed=failed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compiled:
    """A rule ready to run.

    Attributes
    ----------
    words : str
        What reasons call it.
    when : polars.Expr or None
        Where it holds.
    values : mapping of str to polars.Expr
        What it sets, in its final type.
    types : mapping of str to polars.DataType
        The types of those.
    columns : tuple of str
        What it looks at.
    all_rows : bool
        Whether it is for rows without an answer too.
    """

    words: str
    when: pl.Expr | None
    values: Mapping[str, pl.Expr]
    types: Mapping[str, pl.DataType]
    columns: tuple[str, ...]
    all_rows: bool

    def run(self, columns: Columns, schema: FleetSchema) -> tuple[Columns, dict[int, str]]:
        """What the rule sets, and the rows on which it failed."""
        failed: dict[int, str] = {}
        answers = columns[schema.answer]
        is_whole = self.all_rows or not answers.null_count()
        rows = np.arange(len(answers)) if is_whole else answers.is_not_null().arg_true().to_numpy()
        seen = _seen(columns, self.columns, schema)
        if self.when is not None:
            [met] = self._evaluate({"met": self.when}, {"met": pl.Boolean()}, seen, rows, failed)
            rows = rows[met.fill_null(False).to_numpy()]
        values = self._evaluate(self.values, self.types, seen, rows, failed)
        return {value.name: _placed(columns, rows, value, len(answers)) for value in values}, failed

    def _evaluate(
        self,
        values: Mapping[str, pl.Expr],
        types: Mapping[str, pl.DataType],
        seen: pl.DataFrame,
        rows: NDArray[np.int64],
        failed: dict[int, str],
    ) -> list[pl.Series]:
        """The values for the chosen rows; a row that fails has nulls, and costs its neighbours nothing."""
        chosen = seen if len(rows) == seen.height else seen[rows]
        pieces = list(self._pieces(values, types, chosen, rows, failed))
        found = pieces[0] if len(pieces) == 1 else [pl.concat(parts) for parts in zip(*pieces, strict=True)]
        for column in found:
            if column.dtype.is_float():
                odd = np.flatnonzero(
                    ~np.isfinite(column.fill_null(0.0).to_numpy() if column.null_count() else column.to_numpy())
                )
                failed.update({int(rows[i]): f"{self.words} gives no finite number for {column.name!r}" for i in odd})
        return found

    def _pieces(
        self,
        values: Mapping[str, pl.Expr],
        types: Mapping[str, pl.DataType],
        chosen: pl.DataFrame,
        rows: NDArray[np.int64],
        failed: dict[int, str],
    ) -> Iterator[list[pl.Series]]:
        """All rows at once; if that fails, in halves, until the rows that fail stand alone."""
        try:
            found = chosen.with_columns(value.alias(name) for name, value in values.items())
            yield [found.get_column(name) for name in values]
        except PolarsError as error:
            if len(rows) == 1:
                failed[int(rows[0])] = f"{self.words} failed: {_first_line(error)}"
                yield [pl.Series(name, [None], dtype=types[name]) for name in values]
                return
            half = len(rows) // 2
            yield from self._pieces(values, types, chosen[:half], rows[:half], failed)
            yield from self._pieces(values, types, chosen[half:], rows[half:], failed)


def _seen(columns: Columns, names: Sequence[str], schema: FleetSchema) -> pl.DataFrame:
    """The columns that a rule looks at. A missing number is null to it, whichever way it was sent."""
    columns = with_probabilities(columns, names, schema.labels)
    if not names:
        return pl.DataFrame(height=len(columns[schema.answer]))
    return pl.DataFrame([_plain(columns[name]) for name in names])


def _plain(column: pl.Series) -> pl.Series:
    if column.dtype.is_float():
        return column.fill_nan(None) if np.isnan(column.to_numpy()).any() else column
    return column.cast(pl.String) if column.dtype in (pl.Enum, pl.Categorical) else column


def _placed(columns: Columns, rows: NDArray[np.int64], values: pl.Series, height: int) -> pl.Series:
    """A column that has the values in the chosen rows, and elsewhere what was there before."""
    if len(rows) == height:
        return values
    before = columns.get(values.name)
    if before is None:
        before = pl.repeat(None, height, dtype=values.dtype, eager=True).alias(values.name)
    return before.clone().scatter(rows, values)  # which works in place


def _compile(rule: Rule, number: int, visible: Mapping[str, pl.DataType], schema: FleetSchema) -> _Compiled:
    field = f"rules[{number}]"
    when = None if rule.when is None else row_expression(rule.when, f"{field}.when")
    if when is not None and _type_of(when, f"{field}.when", visible) != pl.Boolean:
        raise InvalidSpec(f"field '{field}.when': {rule.when!r} is no predicate: it must be true or false")
    expressions, types = {}, {}
    for name, value in rule.set.items():
        at = f"{field}.set.{name}"
        _refuse_name(name, at, schema)
        expressions[name] = _expression(value, at)
        types[name] = _output_type(name, _type_of(expressions[name], at, visible), at, visible)
    used = [expression for expression in (when, *expressions.values()) if expression is not None]
    names = {name for expression in used for name in expression.meta.root_names()}
    return _Compiled(
        words=f"rule {rule.name or ', '.join(rule.set)!r}",
        when=when,
        values={name: expression.cast(types[name]) for name, expression in expressions.items()},
        types=types,
        columns=tuple(sorted(names)),
        all_rows=rule.rows == "all",
    )


def _expression(value: Value, field: str) -> pl.Expr:
    return row_expression(value, field) if isinstance(value, str) else pl.lit(value)


def _refuse_name(name: str, field: str, schema: FleetSchema) -> None:
    changeable = set(schema.outputs) - {"probability"}
    if name in schema.inputs:
        raise InvalidSpec(f"field '{field}': {name!r} is an input; give the output another name")
    if (name in RESERVED_COLUMNS or name in probability_columns(schema)) and name not in changeable:
        raise InvalidSpec(f"field '{field}': Shoal itself writes {name!r}; give the output another name")


def _type_of(expression: pl.Expr, field: str, visible: Mapping[str, pl.DataType]) -> pl.DataType:
    """The type of an expression over the columns that there are; runs it over two rows without values."""
    example = pl.DataFrame({name: pl.Series([None, None], dtype=dtype) for name, dtype in visible.items()})
    unknown = sorted(set(expression.meta.root_names()) - set(visible))
    if unknown:
        raise InvalidSpec(f"field '{field}': there is no column {unknown[0]!r}; there are {', '.join(visible)}")
    try:
        found = example.with_columns(expression.alias("_value"))["_value"]
    except PolarsError as error:
        raise InvalidSpec(f"field '{field}' cannot be computed: {_first_line(error)}") from error
    return found.dtype


def _output_type(name: str, dtype: pl.DataType, field: str, visible: Mapping[str, pl.DataType]) -> pl.DataType:
    """What an output's column gets as its type: one that the protocol knows, or the one that it has already."""
    output = _normal(dtype)
    if output is None:
        raise InvalidSpec(f"field '{field}' is {dtype}: make it a number, a text or a boolean with CAST")
    before = visible.get(name, output)
    if before != output and not (before.is_numeric() and output.is_numeric()):
        raise InvalidSpec(f"field '{field}' is {output}, but {name!r} is {before} already; give it another name")
    return before


def _normal(dtype: pl.DataType) -> pl.DataType | None:
    if dtype.is_integer():
        return pl.Int64()
    if dtype.is_numeric():
        return pl.Float64()
    return dtype if dtype in (pl.Boolean, pl.String) else None


def _threshold(threshold: Threshold | None, schema: FleetSchema) -> Threshold | None:
    if threshold is None:
        return None
    if threshold.score is not None and schema.task is not Task.ANOMALY:
        raise InvalidSpec(f"field 'threshold.score' is for anomaly fleets; this one does {schema.task}")
    if threshold.label is not None:
        if schema.task is not Task.CLASSIFICATION:
            raise InvalidSpec(f"field 'threshold.label' is for classification fleets; this one does {schema.task}")
        if not any(label == threshold.label and type(label) is type(threshold.label) for label in schema.labels):
            raise InvalidSpec(f"field 'threshold.label': {threshold.label!r} is none of {list(schema.labels)}")
    return threshold


def _decide(columns: Columns, threshold: Threshold, schema: FleetSchema) -> Columns:
    """The decision that the threshold makes."""
    if threshold.score is not None:
        return {"is_anomaly": (columns["score"] < threshold.score).alias("is_anomaly")}
    known = columns["probability"].is_not_null().arg_true()
    chances = columns["probability"].gather(known).to_numpy().astype(np.float64)
    label = list(schema.labels).index(threshold.label)  # type: ignore[arg-type]
    taken = chances[:, label] >= (threshold.probability or 0.0)
    others = np.where(np.arange(chances.shape[1]) == label, -np.inf, np.nan_to_num(chances, nan=-np.inf))
    chosen = np.where(taken, label, others.argmax(axis=1))
    decided = pl.Series(list(schema.labels)).gather(chosen)
    return {"prediction": columns["prediction"].clone().scatter(known, decided)}


def _first_line(error: Exception) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
