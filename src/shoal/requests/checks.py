"""Checks of what goes into a model and what comes out: types, ranges, allowed values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from polars.exceptions import PolarsError

from shoal.errors import InvalidSpec
from shoal.requests.outputs import Columns, probability_columns, with_probabilities
from shoal.requests.spec import ChecksSpec, ColumnCheck, FleetSchema
from shoal.requests.violations import Violations, first_reasons

_LONGEST = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class _Condition:
    """One thing that has to hold.

    Attributes
    ----------
    column : str
        About which column.
    broken : polars.Expr
        Where it does not hold; null counts as holding.
    words : callable
        What to say of a value for which it does not.
    """

    column: str
    broken: pl.Expr
    words: Callable[[object], str]


class Checks:
    """The checks of one fleet, compiled once and used for every batch; safe to use from several threads.

    Parameters
    ----------
    spec : ChecksSpec
        What to check.
    schema : FleetSchema
        The fleet's columns.
    outputs : mapping of str to polars.DataType
        The output columns, those that rules compute included; see :attr:`shoal.requests.rules.Rules.outputs`.

    Attributes
    ----------
    on_input, on_output : str
        What to do with rows that are found; see :class:`~shoal.requests.spec.ChecksSpec`.

    Raises
    ------
    InvalidSpec
        A check is about a column that there is not, or asks what its type cannot answer.
    """

    def __init__(self, spec: ChecksSpec, schema: FleetSchema, outputs: Mapping[str, pl.DataType]) -> None:
        self.on_input = spec.on_input
        self.on_output = spec.on_output
        self._answer = schema.answer
        self._labels = schema.labels
        self._inputs = _compiled(spec.inputs, schema.inputs, "inputs")
        self._outputs = _compiled(spec.outputs, {**outputs, **probability_columns(schema)}, "outputs")

    @property
    def columns(self) -> set[str]:
        """The inputs that are checked."""
        return {condition.column for condition in self._inputs}

    def inputs(self, columns: Columns) -> Violations | None:
        """Rows whose inputs are not allowed; None where all are.

        Parameters
        ----------
        columns : Columns
            The inputs that :attr:`columns` names.
        """
        return _broken(self._inputs, columns)

    def outputs(self, columns: Columns) -> Violations | None:
        """Rows whose outputs are not allowed; None where all are. Rows without an answer are none of them.

        Parameters
        ----------
        columns : Columns
            The outputs, after the rules.
        """
        if not self._outputs:
            return None
        wanted = [condition.column for condition in self._outputs]
        return _broken(self._outputs, with_probabilities(columns, wanted, self._labels), answer=self._answer)


def _broken(conditions: Sequence[_Condition], columns: Columns, *, answer: str | None = None) -> Violations | None:
    """Rows for which a condition does not hold, among those that have an answer, where one is named."""
    if not conditions:
        return None
    names = dict.fromkeys([condition.column for condition in conditions] + ([] if answer is None else [answer]))
    frame = pl.DataFrame([columns[name] for name in names])
    if not frame.height:
        return None
    among = None if answer is None else pl.col(answer).is_not_null()
    broken = (condition.broken if among is None else condition.broken & among for condition in conditions)
    marks = frame.select(mark.fill_null(False).alias(str(i)) for i, mark in enumerate(broken))
    if not any(mark.any() for mark in marks):
        return None
    found = (_reasons(condition, mark, frame) for condition, mark in zip(conditions, marks, strict=True))
    return Violations.of(first_reasons(found), frame.height)


def _reasons(condition: _Condition, mark: pl.Series, frame: pl.DataFrame) -> dict[int, str]:
    rows = mark.arg_true()
    values = frame[condition.column].gather(rows)
    return {row: f"{condition.column!r} {condition.words(value)}" for row, value in zip(rows, values, strict=True)}


def _compiled(
    checks: Mapping[str, ColumnCheck], columns: Mapping[str, pl.DataType], side: str
) -> tuple[_Condition, ...]:
    conditions: list[_Condition] = []
    for name, check in checks.items():
        field = f"checks.{side}.{name}"
        if name not in columns:
            raise InvalidSpec(f"field '{field}': the fleet has no such column; it has {', '.join(columns)}")
        _refuse_misfits(check, columns[name], field)
        conditions.extend(_conditions(name, check, columns[name]))
    _try(conditions, columns, side)
    return tuple(conditions)


def _refuse_misfits(check: ColumnCheck, dtype: pl.DataType, field: str) -> None:
    number, text = dtype.is_numeric(), dtype == pl.String
    if not (number or text or dtype in (pl.Boolean, pl.Date)):
        raise InvalidSpec(f"field '{field}': this column is a list of numbers; check probability_LABEL instead")
    if not number and (check.min is not None or check.max is not None):
        raise InvalidSpec(f"field '{field}': only numbers have a min and max, and this column is {_kind(dtype)}")
    if not text and check.pattern is not None:
        raise InvalidSpec(f"field '{field}': only texts match a pattern, and this column is {_kind(dtype)}")
    if (check.type == "text" and not text) or (check.type in ("number", "integer") and not (number or text)):
        raise InvalidSpec(f"field '{field}': this column is {_kind(dtype)}, never {check.type}")
    fitting = (int, float) if number else bool if dtype == pl.Boolean else str
    for value in check.one_of or ():
        if not isinstance(value, fitting) or (number and isinstance(value, bool)):
            raise InvalidSpec(f"field '{field}.one_of': {value!r} is nothing that this column, {_kind(dtype)}, can be")


def _kind(dtype: pl.DataType) -> str:
    if dtype.is_numeric():
        return "a number"
    return {pl.String(): "a text", pl.Boolean(): "a boolean", pl.Date(): "a date"}[dtype]


def _conditions(name: str, check: ColumnCheck, dtype: pl.DataType) -> Iterator[_Condition]:
    raw = pl.col(name)
    number = raw.cast(pl.Float64, strict=False).fill_nan(None)
    present = number if dtype.is_numeric() else raw
    if check.not_null:
        missing = present.is_null() if dtype.is_numeric() else raw.is_null()
        yield _Condition(column=name, broken=missing, words=lambda _: "is missing")
    if check.type in ("number", "integer"):
        wrong = raw.is_not_null() & raw.cast(pl.Float64, strict=False).is_null()
        yield _Condition(column=name, broken=wrong, words=lambda value: f"is {_shown(value)}, no number")
    if check.type == "integer":
        yield _Condition(
            column=name, broken=number.floor() != number, words=lambda value: f"is {_shown(value)}, no integer"
        )
    if check.min is not None:
        yield _Condition(
            column=name, broken=number < check.min, words=lambda value: f"is {_shown(value)}, below {check.min:g}"
        )
    if check.max is not None:
        yield _Condition(
            column=name, broken=number > check.max, words=lambda value: f"is {_shown(value)}, above {check.max:g}"
        )
    if check.one_of is not None:
        listed = [float(value) for value in check.one_of] if dtype.is_numeric() else list(check.one_of)
        compared = raw.cast(pl.String) if dtype == pl.Date else present
        yield _Condition(
            column=name,
            broken=~compared.is_in(listed),
            words=lambda value: f"is {_shown(value)}, none of {_shown_list(check.one_of or ())}",
        )
    if check.pattern is not None:
        whole = f"^(?:{check.pattern})$"
        yield _Condition(
            column=name,
            broken=~raw.str.contains(whole),
            words=lambda value: f"is {_shown(value)}, which does not match {check.pattern!r}",
        )


def _try(conditions: Sequence[_Condition], columns: Mapping[str, pl.DataType], side: str) -> None:
    """Meet a bad pattern now and not at the first request."""
    example = pl.DataFrame({name: pl.Series([None], dtype=dtype) for name, dtype in columns.items()})
    for condition in conditions:
        try:
            example.fill_null("").select(condition.broken)
        except PolarsError as error:
            lines = str(error).splitlines()
            problem = next((line for line in lines if line.startswith("error: ")), lines[0])
            raise InvalidSpec(f"field 'checks.{side}.{condition.column}' cannot be checked: {problem}") from error


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _shown_list(values: Sequence[object]) -> str:
    return _shown_cut(", ".join(_shown(value) for value in values))


def _shown_cut(text: str) -> str:
    return text if len(text) <= 2 * _LONGEST else f"{text[: 2 * _LONGEST - 3]}..."
