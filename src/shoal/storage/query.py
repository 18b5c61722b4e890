"""The SQL and the functions a job may bring: what they may say, checked before anything runs.

The person who writes a job reads their own data with it and nothing else. Polars' SQL has table functions
(``read_csv('...')``) that open any file or address, so they are refused twice: by name anywhere in the text, before
Polars sees it (also inside comments, texts and quoted names: no trick of quoting gets past a plain search), and by the
plan, in which nothing but the table ``input`` may be scanned.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from typing import cast

import polars as pl
from polars.exceptions import ColumnNotFoundError, PolarsError

from shoal.errors import InvalidInput, InvalidSpec

_TABLE_FUNCTION = re.compile(
    r"\b(?:read|scan|sink|write)_(?:csv|parquet|ipc|json|ndjson|lines|text|avro|excel|delta|iceberg|database|arrow)\w*",
    re.IGNORECASE,
)
_LEADING = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_FUNCTION = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SCAN = re.compile(r"\bSCAN\b")
#: Steps of the streaming engine: those that look at one row at a time (others are split off), and where rows come from.
_STEP = re.compile(r'^\d+ \[label="([\w-]+)', re.MULTILINE)
_ROW_BY_ROW = ("select", "with-columns", "filter", "simple-projection")
_SOURCE = "in-memory-source"
_JOB = (
    "a job's SQL reads its input and nothing else. Join other files in a function instead (preprocess: module:function)"
)
_ROW = "an expression sees the columns of its row and nothing else. What stands elsewhere is looked up (field lookup)"

Preprocess = Callable[[pl.LazyFrame], pl.LazyFrame]


def is_function(preprocess: str) -> bool:
    """Whether the text names a ``module:function`` rather than being SQL."""
    return _FUNCTION.fullmatch(preprocess.strip()) is not None


def check_predicate(where: str) -> None:
    """Refuse a ``where`` that is not one plain predicate.

    Raises
    ------
    InvalidSpec
        Says what is wrong with it.
    """
    predicate(where)


def predicate(where: str) -> pl.Expr:
    """A ``where`` as an expression.

    Raises
    ------
    InvalidSpec
        It is not one SQL predicate over columns.
    """
    expression = _parsed(where, "where", "a predicate over the input's columns", _JOB)
    if not _looks_at_one_row_throughout(expression):
        raise InvalidSpec(
            f"field 'where': {where!r} looks at more than the row itself, and would depend on how the work is cut; "
            "aggregate in preprocess"
        )
    return expression


def row_expression(sql: str, field: str) -> pl.Expr:
    """An SQL expression whose value for a row depends on that row alone.

    Parameters
    ----------
    sql : str
        The expression.
    field : str
        The field it stands in, for the message.

    Raises
    ------
    InvalidSpec
        It is no expression, calls a table function, or looks at other rows.
    """
    expression = _parsed(sql, field, "an SQL expression over columns", _ROW)
    if not _looks_at_one_row_throughout(expression):
        raise InvalidSpec(
            f"field {field!r}: {sql!r} looks at more than the row itself, and would depend on which requests happen to "
            "be answered together; write what one row decides"
        )
    return expression


def _parsed(sql: str, field: str, wanted: str, instead: str) -> pl.Expr:
    _refuse_table_functions(sql, field, instead)
    try:
        return pl.sql_expr(sql)
    except (PolarsError, OSError) as error:
        raise InvalidSpec(f"field {field!r}: {sql!r} is not {wanted}: {error}") from error


def _looks_at_one_row_throughout(expression: pl.Expr) -> bool:
    return all(_looks_at_one_row(part) for part in _parts(expression))


def _parts(expression: pl.Expr) -> Iterator[pl.Expr]:
    """An expression and all those it is made of."""
    yield expression
    for part in expression.meta.pop():
        yield from _parts(part)


def _looks_at_one_row(part: pl.Expr) -> bool:
    if part.meta.is_literal():
        return True
    try:
        return part.meta.is_row_separable()
    except ColumnNotFoundError:  # its type would tell, which is not known yet; the parts below are asked too
        return True
    except PolarsError:
        return False


def check_preprocess(preprocess: str) -> None:
    """Refuse SQL that could do more than select from ``input``, as far as that shows without the columns.

    Raises
    ------
    InvalidSpec
        Says what is wrong with it.
    """
    if is_function(preprocess):
        return
    _refuse_table_functions(preprocess, "preprocess", _JOB)
    rest = preprocess[len(cast("re.Match[str]", _LEADING.match(preprocess))[0]) :].lstrip("( \t\r\n")
    word = re.match(r"[A-Za-z]*", rest)
    if word is None or word[0].upper() not in ("SELECT", "WITH", "FROM"):
        raise InvalidSpec("field 'preprocess': write one SELECT over the table 'input', or module:function")


def apply_preprocess(preprocess: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    """Run a job's SQL or function over its input, lazily.

    Raises
    ------
    InvalidSpec
        The SQL does not fit the columns, reads something other than ``input``, or the function cannot be imported.
    InvalidInput
        The function failed or did not return a LazyFrame.
    """
    check_preprocess(preprocess)
    if is_function(preprocess):
        return _call(preprocess.strip(), frame)
    empty = pl.DataFrame(schema=frame.collect_schema())
    _refuse_scans(_query(preprocess, empty.lazy()))
    return _query(preprocess, frame)


def looks_at_single_rows(preprocess: str, frame: pl.LazyFrame) -> bool:
    """Whether SQL makes each row of its answer from one row of its input, in their order.

    Then it can be run over pieces of the input. Of a function this cannot be known: it may look at the frame itself.

    Raises
    ------
    InvalidSpec
        The SQL does not fit the columns, or reads something other than ``input``.
    """
    if is_function(preprocess):
        return False
    plain = pl.QueryOptFlags.none()  # a LIMIT must stay a step of its own
    empty = pl.DataFrame(schema=frame.collect_schema()).lazy()
    plan = apply_preprocess(preprocess, empty).show_graph(
        engine="streaming", plan_stage="physical", raw_output=True, show=False, optimizations=plain
    )
    steps = _STEP.findall(plan or "")
    return steps.count(_SOURCE) == 1 and {*steps} <= {_SOURCE, *_ROW_BY_ROW}


def _query(sql: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    try:
        answer = pl.SQLContext({"input": frame}, register_globals=False).execute(sql, eager=False)
        answer.collect_schema()
    except (PolarsError, OSError) as error:
        raise InvalidSpec(f"field 'preprocess': {error}; the one table there is is 'input'") from error
    return answer


def _refuse_table_functions(sql: str, field: str, instead: str) -> None:
    found = _TABLE_FUNCTION.search(sql)
    if found:
        raise InvalidSpec(f"field {field!r}: {found[0]!r} may not occur: {instead}")


def _refuse_scans(query: pl.LazyFrame) -> None:
    """Any file that the plan over an empty, in-memory ``input`` would still open came from the SQL itself."""
    if _SCAN.search(query.explain(optimized=False)):
        raise InvalidSpec("field 'preprocess': it reads something other than the table 'input'")


def _call(path: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    module, _, name = path.partition(":")
    try:
        function = cast("Preprocess", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise InvalidSpec(f"field 'preprocess': {path} cannot be imported ({error}); is it on PYTHONPATH?") from error
    try:
        answer = function(frame)
    except Exception as error:  # it is the user's code: whatever it raises is about the job
        raise InvalidInput(f"preprocess {path} failed: {type(error).__name__}: {error}") from error
    if not isinstance(answer, pl.LazyFrame):
        raise InvalidInput(f"preprocess {path} returned {type(answer).__name__}: it must return a polars.LazyFrame")
    return answer
