"""Whatever tensors arrive, a request is answered or refused as invalid, and its neighbours are answered."""

import asyncio

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.errors import InvalidInput
from shoal.serving.inputs import InputSchema
from shoal.serving.messages import Datatype, InferenceRequest, InferenceResponse, Tensor
from shoal.serving.tensors import NUMPY
from shoal.table.keys import coerce
from shoal.types import Feature, FeatureKind, KeyColumn, KeyType
from tests.unit.serving.fleets import CONTEXT, FLEETS, tensor

SCHEMA = InputSchema(
    [KeyColumn(name=kind.value, type=kind) for kind in KeyType],
    [Feature(name="number", kind=FeatureKind.NUMERIC), Feature(name="text", kind=FeatureKind.CATEGORY)],
)
GOOD = {
    "string": ("BYTES", ["a", None]),
    "integer": ("INT64", [-5, None]),
    "boolean": ("BOOL", [True, None]),
    "date": ("BYTES", ["2026-01-02", None]),
    "number": ("FP64", [1.5, None]),
    "text": ("BYTES", ["x", None]),
}


def inputs(**changed):
    """Good inputs with some replaced: by a datatype and elements, by a tensor, or by nothing."""
    made = []
    for name, (datatype, values) in GOOD.items():
        change = changed.get(name, (datatype, values))
        if isinstance(change, Tensor):
            made.append(change)
        elif change is not None:
            made.append(Tensor(name=name, datatype=Datatype(change[0]), shape=(len(change[1]),), data=change[1]))
    return made


def frame_of(columns):
    return pl.DataFrame([columns.series(name) for name in GOOD])


def frame(**changed):
    return frame_of(SCHEMA.columns([SCHEMA.rows(inputs(**changed))]))


def test_good_inputs_become_columns():
    rows = frame()
    expected = {name: values for name, (_, values) in GOOD.items() if name != "number"}
    assert rows.drop("number").to_dict(as_series=False) == expected
    assert rows["number"][0] == 1.5
    assert np.isnan(rows["number"][1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"number": None}, "lacks"),
        ({"number": ("FP64", ["1", 2.0])}, "not all of its elements are numbers"),
        ({"number": ("FP64", [True, 2.0])}, "not all of its elements are numbers"),
        ({"number": ("INT64", [1.5, 2])}, "whole numbers"),
        ({"number": ("UINT8", [256, 2])}, "out of range"),
        ({"number": ("INT8", [-129, 2])}, "out of range"),
        ({"number": ("FP64", [10**400, 2])}, "converted|too large"),
        ({"number": ("FP32", [10**400, 2])}, "too large"),
        ({"number": ("BOOL", [1, 0])}, "true or false"),
        ({"number": ("FP64", np.array([1.0, 2.0], dtype=np.float32))}, "elements are float32"),
        ({"number": ("FP64", [1.5])}, "shape"),
        ({"number": Tensor(name="number", datatype=Datatype.FP64, shape=(1, 2), data=[1.0, 2.0])}, "shape"),
        ({"number": Tensor(name="number", datatype=Datatype.FP64, shape=(), data=[])}, "shape"),
        ({"number": Tensor(name="number", datatype=Datatype.FP64, shape=(2,), data=[1.0])}, "1 elements"),
        ({"integer": ("FP64", [1.0, 2.0])}, "has to be an integer"),
        ({"integer": ("INT64", [2**63, 2])}, "out of range"),
        ({"integer": ("UINT64", [2**64, 2])}, "out of range"),
        ({"integer": ("UINT64", [-1, 2])}, "out of range"),
        ({"integer": ("UINT64", [1.5, 2])}, "whole numbers"),
        ({"integer": ("UINT64", np.array([1, 2], dtype=np.uint32))}, "elements are uint32"),
        ({"boolean": ("UINT64", [1, 0])}, "true or false"),
        ({"boolean": ("INT64", [1, 0])}, "true or false"),
        ({"string": ("INT64", [1, 0])}, "has to be a text"),
        ({"string": ("BYTES", ["\ud800", "a"])}, "Unicode"),
        ({"string": ("BYTES", [b"\xff", "a"])}, "UTF-8"),
        ({"string": ("BYTES", [1, "a"])}, "texts"),
        ({"text": Tensor(name="string", datatype=Datatype.BYTES, shape=(2,), data=["a", "b"])}, "given twice"),
        ({"text": Tensor(name="other", datatype=Datatype.BYTES, shape=(2,), data=["a", "b"])}, "no input 'other'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(changed, message):
    with pytest.raises(InvalidInput, match=message):
        frame(**changed)


def test_texts_are_taken_for_numbers_and_keys_and_those_that_are_none_are_marked():
    texts = {
        "number": ("BYTES", ["1.5", "x"]), "integer": ("BYTES", [b"7", "7.5"]), "boolean": ("BYTES", ["True", None]),
    }  # fmt: skip
    plain, given_texts = SCHEMA.rows(inputs()), SCHEMA.rows(inputs(**texts))
    columns = SCHEMA.columns([plain, given_texts, plain])
    rows = frame_of(columns).slice(2, 2)
    assert (rows["number"][0], rows["integer"].to_list(), rows["boolean"].to_list()) == (1.5, [7, None], [True, None])
    assert np.isnan(rows["number"][1])
    marked = [False, False, False, True, False, False]
    assert {name: flags.tolist() for name, flags in columns.wrong.items()} == {"integer": marked, "number": marked}
    assert [given_texts.is_repeatable(row) for row in (0, 1)] == [True, False]
    for part in (given_texts.slice(1, 2), given_texts.take([1])):
        assert not part.is_repeatable(0)
    assert SCHEMA.columns([plain]).wrong == {}


@pytest.mark.parametrize("values", [[2**63 - 1, 2**63], [2**63 - 1, 2**64 - 1], [7, None], []])
def test_an_integer_that_no_key_can_be_is_marked_as_a_fleet_does(values):
    column = pl.Series("integer", values, dtype=pl.UInt64)
    expected, wrong = coerce(column, KeyColumn(name="integer", type=KeyType.INTEGER))
    forms = [values] if None in values else [values, np.array(values, dtype=np.uint64)]
    for data in forms:
        rows = SCHEMA.rows([Tensor(name=n, datatype=Datatype(d), shape=(len(values),), data=g[: len(values)])
                            for n, (d, g) in {**GOOD, "integer": ("UINT64", data)}.items()])  # fmt: skip
        columns = SCHEMA.columns([rows])
        assert columns.series("integer").to_list() == expected.to_list()
        assert {name: flags.tolist() for name, flags in columns.wrong.items()} == (
            {} if wrong is None else {"integer": wrong.tolist()}
        )


@pytest.mark.parametrize(("datatype", "given"), [("BYTES", ["7", "x", None]), ("UINT64", [7, 2**64 - 1, None])])
def test_what_is_looked_up_by_and_cannot_be_a_key_is_missing_as_in_a_job(datatype, given):
    schema = InputSchema([], [], [KeyColumn(name="shop", type=KeyType.INTEGER)])
    rows = schema.rows([Tensor(name="shop", datatype=Datatype(datatype), shape=(3,), data=given)])
    assert (rows.columns, rows.wrong) == (([7, None, None],), {})


def test_a_request_without_inputs_is_refused():
    with pytest.raises(InvalidInput, match="no inputs"):
        SCHEMA.rows([])


def test_texts_may_be_bytes_and_arrays_of_objects():
    given_texts = frame(string=("BYTES", np.array([b"\xc3\xbc", "a"], dtype=object)), text=("BYTES", [b"x", None]))
    assert given_texts["string"].to_list() == ["ü", "a"]
    assert given_texts["text"].to_list() == ["x", None]


def test_a_single_precision_list_holds_single_precision_numbers():
    """A client that says FP32 gets the same answer whether it sends text or bytes."""
    listed = frame(number=("FP32", [0.1, 1e300]))["number"].to_list()
    with np.errstate(over="ignore"):
        assert listed == np.array([0.1, 1e300]).astype(np.float32).astype(np.float64).tolist()


DATATYPES = st.sampled_from(list(Datatype))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.just(10**400),
    st.floats(),
    st.text(st.characters(), max_size=4),
    st.binary(max_size=4),
    st.sampled_from(["a", "s1", "2026-01-01", "true"]),
)


@st.composite
def data_of(draw, rows):
    kind = draw(st.sampled_from(["any", "one", "array"]))
    if kind == "array":
        datatype = draw(DATATYPES)
        if datatype == "BYTES":
            return np.array([*draw(st.lists(SCALARS, min_size=rows, max_size=rows)), None], dtype=object)[:-1]
        raw = draw(st.binary(min_size=8 * rows, max_size=8 * rows))
        return np.frombuffer(raw, dtype=np.uint8 if datatype == "BOOL" else NUMPY[datatype])[:rows]
    if kind == "one":
        return [draw(SCALARS)] * rows
    return draw(st.lists(SCALARS, min_size=rows, max_size=rows))


@st.composite
def tensors(draw, names):
    rows = draw(st.integers(0, 3))
    made = []
    for name in names:
        data = draw(data_of(rows))
        shape = draw(st.sampled_from([(rows,), (rows,), (rows, 1), (rows, 2), (), (-1,), (rows + 1,)]))
        made.append(Tensor(name=name, datatype=draw(DATATYPES), shape=shape, data=data))
    return tuple(draw(st.permutations(made)))


GOOD_REQUESTS = {
    "regression": [("device", ["a"]), ("sensor", ["s1"]), ("x", [0.5]), ("y", [0.5]), ("z", [0.5])],
    "texts": [("shop", [7]), ("x", [0.5]), ("y", [0.5])],
    "anomaly": [("day", ["2026-01-01"]), ("night", [False]), ("x", [0.5]), ("y", [0.5])],
    "single": [("carrier", ["UA"]), ("x", [0.5])],
}


@pytest.mark.parametrize("kind", GOOD_REQUESTS)
def test_whatever_tensors_arrive_the_neighbours_are_answered(tmp_path, kind):
    fleet = FLEETS[kind]()
    names = [name for name, _ in GOOD_REQUESTS[kind]]
    good = InferenceRequest(model=fleet.name, inputs=tuple(tensor(n, v) for n, v in GOOD_REQUESTS[kind]))

    with shoal.open(tmp_path / "home") as workspace, asyncio.Runner() as runner:
        workspace.register(fleet)
        workspace.promote(fleet.name, 1)
        plane = workspace.data_plane([fleet.name])
        runner.run(plane.start())
        truth = runner.run(plane.infer(good, CONTEXT))

        async def at_once(odd):
            requests = [good, InferenceRequest(model=fleet.name, inputs=odd), good]
            return await asyncio.gather(*[plane.infer(one, CONTEXT) for one in requests], return_exceptions=True)

        @given(tensors(names))
        def check(odd):
            first, answer, last = runner.run(at_once(odd))
            assert first == last == truth
            assert isinstance(answer, InferenceResponse | InvalidInput), repr(answer)

        check()
        runner.run(plane.drain(1))
