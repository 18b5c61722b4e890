"""The facts of models as Arrow columns, and back as a frame."""

import json
from collections.abc import Sequence

import msgspec
import polars as pl
import pyarrow as pa

from shoal.table.facts import ModelFacts

_TIME = pa.timestamp("us", tz="UTC")

SCHEMA = {
    "rows": pa.int64(),
    "trained_at": _TIME,
    "window_start": _TIME,
    "window_stop": _TIME,
    "metrics": pa.string(),
    "libraries": pa.string(),
    "run": pa.string(),
}


def fact_columns(facts: Sequence[ModelFacts]) -> dict[str, pa.Array]:
    """The facts of many models, one Arrow column each; mappings are kept as JSON."""
    values = {
        "rows": [fact.rows for fact in facts],
        "trained_at": [fact.trained_at for fact in facts],
        "window_start": [fact.window[0] if fact.window else None for fact in facts],
        "window_stop": [fact.window[1] if fact.window else None for fact in facts],
        "metrics": [_json(fact.metrics) for fact in facts],
        "libraries": [_json(fact.libraries) for fact in facts],
        "run": [fact.run for fact in facts],
    }
    return {name: pa.array(values[name], type=dtype) for name, dtype in SCHEMA.items()}


def _json(mapping: object) -> str | None:
    return json.dumps(dict(mapping), sort_keys=True) if mapping else None  # type: ignore[call-overload]


def facts_frame(batch: pa.RecordBatch) -> pl.DataFrame:
    """The facts of a block's models: rows, times, ``metrics`` and ``libraries`` as JSON text, run."""
    frame = pl.DataFrame(pa.table({name: batch.column(name) for name in SCHEMA}))
    assert isinstance(frame, pl.DataFrame)
    return frame


def with_metrics(frame: pl.DataFrame, suffixes: Sequence[str] = ("",)) -> pl.DataFrame:
    """Replace columns of metrics as JSON by a column ``metric.NAME`` each."""
    for suffix in suffixes:
        column = f"metrics{suffix}"
        if column not in frame.columns:
            continue
        decoded = [msgspec.json.decode(text) if text else {} for text in frame[column]]
        names = sorted({name for metrics in decoded for name in metrics})
        values = {f"metric.{name}{suffix}": [metrics.get(name) for metrics in decoded] for name in names}
        frame = frame.drop(column).with_columns(
            [pl.Series(name, numbers, dtype=pl.Float64, strict=False) for name, numbers in values.items()]
        )
    return frame
