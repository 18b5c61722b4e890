"""Large bodies are read as small ones are, and nobody waits for them."""

import asyncio
import csv
import functools
import json
import math
import time
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_world import make_home, rest_world

from shoal.errors import InvalidInput, TooLarge
from shoal.server import decoding, invocations, pieces, wire
from shoal.server.large import large_request
from shoal.server.parameters import MOST_ELEMENTS, MOST_TENSORS
from shoal.server.pieces import LARGE_BYTES, PIECE_BYTES, read_list

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64),
    st.floats(allow_infinity=False),
    st.text(max_size=12),
    st.text(alphabet='",[]{}\\NaN \n', max_size=12),
)
ELEMENTS = (
    CELLS | st.lists(CELLS, max_size=3) | st.dictionaries(st.text(alphabet='",]}a', max_size=3), CELLS, max_size=2)
)
BLANKS = st.sampled_from(["", " ", "\n\t "])


def spaced(value, blank):
    return json.dumps(value, separators=(f"{blank},{blank}", f"{blank}:{blank}")).encode()


@given(st.lists(ELEMENTS, max_size=30), BLANKS, st.integers(1, 40))
def test_a_list_in_pieces_is_the_list(elements, blank, piece_bytes):
    raw = decoding._without_nan(spaced(elements, blank))
    decoder = msgspec.json.Decoder(list)
    assert read_list(raw, decoder, piece_bytes=piece_bytes) == decoder.decode(raw)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.integers(1, 40))
def test_no_more_elements_are_read_than_there_may_be(elements, piece_bytes):
    raw = json.dumps(elements).encode()
    decoder = msgspec.json.Decoder(list)
    assert len(read_list(raw, decoder, most=len(elements), piece_bytes=piece_bytes)) == len(elements)
    with pytest.raises(InvalidInput, match="more elements"):
        read_list(raw, decoder, most=len(elements) - 1, piece_bytes=piece_bytes)


tensors = st.fixed_dictionaries(
    {
        "name": st.text(max_size=5),
        "datatype": st.sampled_from(["FP64", "BYTES", "BOOL", "BF16"]),
        "shape": st.lists(st.integers(-1, 9), max_size=2),
    },
    optional={
        "data": st.lists(ELEMENTS, max_size=6) | CELLS,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "x"]), CELLS, max_size=2),
        "more": ELEMENTS,
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=4)},
    optional={
        "id": CELLS,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.text(max_size=3)}), max_size=3) | CELLS,
        "parameters": st.dictionaries(st.text(max_size=3), CELLS, max_size=3),
        "more": ELEMENTS,
    },
)


def read(raw, most_rows=MOST_ELEMENTS):
    """As the door reads a large body."""
    large = functools.partial(large_request, most_rows=most_rows)
    return wire.read_request(raw, None, model="m", version=None, read=large)


def _tried(work):
    try:
        return work()
    except InvalidInput as error:
        return type(error)


@given(requests, BLANKS)
def test_a_large_request_is_read_as_a_small_one(document, blank):
    raw = spaced(document, blank)
    small = _tried(lambda: wire.read_request(raw, None, model="m", version=None))
    large = _tried(lambda: read(raw))
    if small is not InvalidInput and large is InvalidInput:  # a shape that does not fit is found out at once
        assert any(math.prod(one.shape) < len(one.data) for one in small[0].inputs)
    elif small is InvalidInput:
        assert large is InvalidInput
    else:
        assert large[1] == small[1]
        assert _parts(large[0]) == _parts(small[0])


def _parts(request):
    inputs = [(one.name, one.datatype, one.shape, list(one.data)) for one in request.inputs]
    return inputs, request.id, request.outputs, request.parameters


split = st.fixed_dictionaries(
    {"columns": st.lists(st.text(max_size=3) | st.integers(0, 3), max_size=3), "data": st.lists(ELEMENTS, max_size=4)}
)
mappings = st.dictionaries(st.text(max_size=3), ELEMENTS | st.lists(ELEMENTS, max_size=3), max_size=4)
tables = st.dictionaries(
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "params"]),
    split | mappings | st.lists(ELEMENTS, max_size=5) | CELLS,
    max_size=3,
)


@given(tables, BLANKS)
def test_a_large_invocation_is_read_as_a_small_one(document, blank):
    raw = spaced(document, blank)
    small = _tried(lambda: decoding.decode(invocations._decoder, raw))
    assert _tried(lambda: invocations._large_invocation(raw)) == small


def body(count, **more):
    inputs = [
        {"name": "x", "datatype": "FP64", "shape": [count], "data": [1.2345678901] * count},
        {"name": "k", "datatype": "BYTES", "shape": [count, 1], "data": [["a,b"]] * count},
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


def test_a_missing_number_does_not_make_inputs_count_twice():
    """NaN is found by reading once more."""
    count = MOST_TENSORS * 2 // 3
    made = [{"name": f"x{i}", "shape": [1], "datatype": "FP64", "data": [1.0]} for i in range(count)]
    made[-1]["data"] = [math.nan]
    request, _ = read(json.dumps({"inputs": made}).encode())
    assert len(request.inputs) == count
    assert request.inputs[-1].data == [None]


def test_more_rows_than_anybody_takes_are_not_read():
    raw = body(100_000)
    assert len(raw) > LARGE_BYTES
    request, _ = read(raw, 100_000)
    assert [len(one.data) for one in request.inputs] == [100_000] * 2
    with pytest.raises(TooLarge, match="100000 rows in one request; send at most 99999"):
        read(raw, 99_999)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"inputs": [{"name": str(i), "datatype": "FP64", "shape": [1]} for i in range(40_000)]}, "32768 inputs"),
        ({"inputs": [], "parameters": {str(i): i for i in range(100_000)}}, "the parameters"),
        ({"inputs": [], "outputs": [{"name": str(i)} for i in range(100_000)]}, "the outputs"),
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1] * 500_000}]}, "the shape"),
        ({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1] * 500_000}]}, "more elements"),
    ],
)
def test_what_only_keeps_busy_is_refused(document, said):
    with pytest.raises(InvalidInput, match=said):
        read(json.dumps(document).encode())


class Turns:
    """Turns of the event loop, as many as it takes meanwhile; whoever reads lets it take one now and then."""

    def __init__(self):
        self.count = 0

    def wait(self, _pause_s=0.0):
        """Return when there was another; not where the reader keeps the loop itself."""
        seen, until_s = self.count, time.monotonic() + 20
        while self.count == seen and time.monotonic() < until_s:
            time.sleep(1e-5)

    def rows(self, *given, **more):
        for number, row in enumerate(csv.reader(*given, **more)):
            if number % 20_000 == 0:
                self.wait()
            yield row


def test_others_are_answered_while_a_large_body_is_read(tmp_path, monkeypatch):
    """How long they wait at most is a matter of the pieces; see below."""
    took = Turns()
    monkeypatch.setattr(pieces, "time", SimpleNamespace(sleep=took.wait))
    monkeypatch.setattr(invocations, "csv", SimpleNamespace(reader=took.rows, Error=csv.Error))
    make_home(tmp_path)
    large = body(150_000)
    assert len(large) > LARGE_BYTES

    async def turns(rest, path, content, kind):
        asking = asyncio.create_task(rest._ask("POST", path, {"content-type": kind}, (content,), False))
        took.count = 0
        while not asking.done():
            took.count += 1
            await asyncio.sleep(0)
        return took.count, (await asking).status

    lines = b"x,y\n" + b"1.5,2.5\n" * 200_000 + b"1.5\n"
    table = json.dumps({"instances": [[1.5, 2.5]] * 200_000 + [[1.5]]}).encode()
    with rest_world(tmp_path, ["labels"], body_bytes=8 * LARGE_BYTES) as rest:
        for path, content, kind in [
            ("/v2/models/labels/infer", large, "application/json"),
            ("/v2/models/nobody/infer", large, "application/json"),
            ("/invocations", table, "application/json"),
            ("/invocations", lines, "text/csv"),
        ]:
            count, status = rest.runner.run(turns(rest, path, content, kind))
            assert status in (400, 404)
            assert count > 5, path


def test_pieces_are_small_enough():
    numbers = json.dumps([1.2345678901] * 200_000).encode()
    texts = json.dumps(['a,"b'] * 100_000).encode()
    nested = json.dumps([["a"], [1]] * 100_000).encode()
    records = json.dumps([{"a": 1, "b": "x,}"}] * 100_000).encode()

    class Watched:
        """A decoder that knows how much it was given at once."""

        most = 0

        def decode(self, raw):
            self.most = max(self.most, len(raw))
            return msgspec.json.decode(raw)

    for raw in (numbers, texts, nested, records):
        watched = Watched()
        assert read_list(raw, watched) == json.loads(raw)
        assert watched.most <= PIECE_BYTES + 2
