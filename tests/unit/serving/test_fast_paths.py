"""The short ways that most requests take come to what the long ones do."""

import numpy as np
import polars as pl
import pytest

from shoal.engines.threads import Threads
from shoal.scoring.score import score
from shoal.serving.inputs import InputSchema
from shoal.serving.messages import Datatype, Tensor
from tests.unit.serving.fleets import FLEETS, request_of, rows_for


def outcome_of(read, tensors):
    """Columns and size, or the refusal's text."""
    try:
        rows = read(tensors)
    except Exception as error:
        return type(error), str(error)
    return [list(column) for column in rows.columns], rows.rows, rows.size_bytes, rows.notes


@pytest.mark.parametrize("kind", FLEETS)
def test_one_plain_row_is_read_as_any_other(kind):
    fleet = FLEETS[kind]()
    schema = InputSchema(fleet.keys, fleet.features)
    short = 0
    for row in rows_for(fleet, np.random.default_rng(3), 200).iter_slices(1):
        tensors = request_of(row, fleet.name).inputs
        # In another order the short way is not taken, and what comes of it is the same.
        turned = (*tensors[1:], tensors[0])
        short += schema._plain_row(tensors) is not None
        assert outcome_of(schema.rows, tensors) == outcome_of(schema.rows, turned)
    assert short or kind in {"texts", "integers", "booleans", "anomaly"}  # keys that are neither texts nor numbers


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP64", (1,), [1]),
        ("FP64", (1, 1), [1.5]),
        ("FP64", (1, 1, 1), [1.5]),
        ("FP64", (2,), [1.5]),
        ("FP64", (1,), [True]),
        ("FP64", (1,), ["1.5"]),
        ("FP64", (1,), [None]),
        ("FP64", (1,), [10**400]),
        ("FP64", (1,), [1.5, 2.5]),
        ("FP64", (), []),
        ("FP32", (1,), [1.5]),
        ("INT64", (1,), [2]),
        ("BOOL", (1,), [True]),
        ("BYTES", (1,), ["1.5"]),
        ("FP64", (1,), np.array([1.5])),
        ("FP64", (1,), np.array([1.5], dtype=np.float32)),
    ],
)
def test_odd_numbers_are_taken_or_refused_alike(datatype, shape, data):
    fleet = FLEETS["single"]()
    schema = InputSchema(fleet.keys, fleet.features)
    carrier = Tensor(name="carrier", datatype=Datatype.BYTES, shape=(1,), data=["UA"])
    x = Tensor(name="x", datatype=Datatype(datatype), shape=shape, data=data)
    assert outcome_of(schema.rows, (carrier, x))[0] == outcome_of(schema.rows, (x, carrier))[0]


@pytest.mark.parametrize("text", ["UA", "", "ü", "\ud800", b"UA", b"\xff", None, 5])
def test_odd_texts_are_taken_or_refused_alike(text):
    fleet = FLEETS["single"]()
    schema = InputSchema(fleet.keys, fleet.features)
    carrier = Tensor(name="carrier", datatype=Datatype.BYTES, shape=(1,), data=[text])
    x = Tensor(name="x", datatype=Datatype.FP64, shape=(1,), data=[1.5])
    assert outcome_of(schema.rows, (carrier, x)) == outcome_of(schema.rows, (x, carrier))


@pytest.mark.parametrize("kind", FLEETS)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_arrays_are_scored_as_the_frame_is(kind, rows):
    fleet, rng = FLEETS[kind](), np.random.default_rng(8)
    schema = InputSchema(fleet.keys, fleet.features)
    requests = [schema.rows(request_of(rows_for(fleet, rng, n), fleet.name).inputs) for n in (rows, 1, rows)]
    threads = Threads()
    columns = schema.columns(requests)
    short = score(fleet.table, columns, threads=threads)
    long = score(fleet.table, pl.DataFrame([columns.series(name) for name in columns.columns]), threads=threads)
    assert short.frame.equals(long.frame)
    assert short.frame.select(pl.all().is_null().sum()).equals(long.frame.select(pl.all().is_null().sum()))
    assert short.outcomes.tolist() == long.outcomes.tolist()
    assert short.levels.tolist() == long.levels.tolist()
    assert short.reason_texts().to_list() == long.reason_texts().to_list()
