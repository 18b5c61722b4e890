"""Whatever comes in, the REST door answers; it never breaks, and it always says what was wrong."""

import json
import math
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_world import JSON, make_home, request, rest_world

INFER = "/v2/models/ridges/infer"
DATATYPES = ["BOOL", "UINT8", "UINT64", "INT8", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "FP8", "", "fp64"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a", "b", 1, 2, -1, 2**63, 2**64, 1e308, -0.0, "\x00", "é"]),
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
shapes = st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**63, 10**40]), max_size=3)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["device", "line", "x", "y", "z", ""]),
        "datatype": st.sampled_from(DATATYPES),
        "shape": shapes,
        "data": st.lists(scalars | st.lists(scalars, max_size=2), max_size=5),
    },
    optional={"parameters": st.dictionaries(st.sampled_from(["binary_data_size", "content_type"]), scalars)},
)
LIMITS = settings(suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "home"
    make_home(folder)
    with rest_world(folder, ["ridges", "labels", "column", "alarms"]) as world:
        yield world


def require_sound(told):
    assert told.status == 200 or 400 <= told.status < 500, told.body
    if told.status != 200:
        assert told.headers[b"content-type"] == b"application/json"
        assert isinstance(told.json["error"], str)
        assert told.json["error"]
        assert "Traceback" not in told.json["error"]
    elif told.headers[b"content-type"] == b"application/json":
        assert told.json is not None


def written(value):
    """JSON, or what Python takes for it."""
    return json.dumps(value).encode()


@LIMITS
@given(documents, st.sampled_from([INFER, "/invocations?fleet=ridges", "/v2/repository/index",
                                   "/v2/repository/models/column/load", "/v2/models/labels/infer"]))  # fmt: skip
def test_any_json(rest, document, path):
    require_sound(rest.ask("POST", path, written(document), JSON))


@LIMITS
@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(tensors, max_size=5)},
        optional={
            "id": scalars,
            "outputs": st.lists(
                st.fixed_dictionaries(
                    {"name": st.sampled_from(["prediction", "outcome", "snapshot", "nothing"])},
                    optional={
                        "parameters": st.dictionaries(st.sampled_from(["binary_data", "classification"]), scalars)
                    },
                ),
                max_size=4,
            ),
            "parameters": st.dictionaries(st.sampled_from(["binary_data_output", "timeout", "x"]), scalars),
        },
    )
)
def test_any_tensors(rest, document):
    require_sound(rest.ask("POST", INFER, written(document), JSON))


@LIMITS
@given(
    st.lists(scalars, min_size=1, max_size=3), st.sampled_from(DATATYPES), st.sampled_from(["device", "line", "x"]),
    st.booleans(),
)  # fmt: skip
def test_one_odd_input_among_good_ones(rest, values, datatype, name, nested):
    count = len(values)
    asked = request(devices=["a"] * count, lines=[1] * count, rows=[[1.0, 2.0]] * count)
    chosen = next(one for one in asked["inputs"] if one["name"] == name)
    chosen |= {"datatype": datatype, "data": [[value] for value in values] if nested else values}
    chosen["shape"] = [count, 1] if nested else [count]
    told = rest.ask("POST", INFER, written(asked), JSON)
    require_sound(told)
    if told.status == 200:
        assert len(told.output("outcome")) == count
        for value, outcome in zip(told.output("prediction"), told.output("outcome"), strict=True):
            assert (value is None) == (outcome not in ("scored", "fallback"))


@LIMITS
@given(
    st.sampled_from(["device", "line", "x", "y"]),
    st.sampled_from(DATATYPES),
    shapes,
    st.binary(max_size=40),
    st.none() | st.integers(-5, 60) | st.integers(),
    st.integers(-3, 3) | st.sampled_from([10**20, 10**5000]),
)
def test_any_binary_tensor(rest, name, datatype, shape, content, size, shift):
    size = len(content) if size is None else size
    wire = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    asked = request(devices=["a"], lines=[1], rows=[[1.0, 2.0]])
    head = written({"inputs": [wire, *[one for one in asked["inputs"] if one["name"] != name]]})
    headers = {"inference-header-content-length": str(len(head) + shift) if shift < 10**4000 else "9" * 5000}
    require_sound(rest.ask("POST", INFER, head + content, headers))


@LIMITS
@given(st.binary(max_size=64) | st.lists(st.binary(max_size=5)).map(lambda ts: b"".join(
    struct.pack("<I", len(t)) + t for t in ts)), st.text(alphabet="0123456789+-_ x.", max_size=6))  # fmt: skip
def test_any_bytes_and_any_header(rest, content, length):
    for path in (INFER, "/v2/models/column/infer", "/v2/models/column/versions/1/infer"):
        require_sound(rest.ask("POST", path, content, {"inference-header-content-length": length}))


@LIMITS
@given(st.data())
def test_a_good_request_with_some_bytes_changed(rest, data):
    body = bytearray(written(request(outputs=[{"name": "prediction", "parameters": {"binary_data": True}}])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["change", "drop", "insert", "cut"])):
            case "change":
                body[at] = data.draw(st.integers(0, 255))
            case "drop":
                del body[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                body[at:at] = data.draw(st.binary(max_size=8))
            case "cut":
                del body[max(1, at) :]
        body = body or bytearray(b"{")
    require_sound(rest.ask("POST", INFER, bytes(body), JSON))


@LIMITS
@given(
    st.text(alphabet=st.characters(codec="latin-1", exclude_characters="?\n\r"), max_size=30),
    st.sampled_from(["", "/ready", "/stats", "/versions/1", "/versions/1/ready"]),
)
def test_any_address(rest, name, rest_of_path):
    for prefix in ("", "ridges:", "alarms:", "column:"):
        require_sound(rest.get(f"/v2/models/{prefix}{name}{rest_of_path}"))


@LIMITS
@given(
    st.sampled_from(["content-type", "content-encoding", "accept-encoding", "request-timeout", "x-shoal-fleet"]),
    st.text(alphabet=st.characters(codec="latin-1"), max_size=20)
    | st.sampled_from(["gzip;q=", "gzip", "1e400", "nan"]),
)
def test_any_header(rest, name, value):
    for path in (INFER, "/invocations"):
        told = rest.ask("POST", path, written(request()), {**JSON, name: value})
        if told.status != 504:
            require_sound(told)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000,
        b'{"other":' + b'{"a":' * 100_000,
        b'{"other":' + b"[" * 100_000 + b"]" * 100_000 + b',"inputs":[]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[' + b"9" * 100_000 + b"]}]}",
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1e999]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[Infinity]}]}',
        b'{"inputs":"' + b'\\"NaN' * 50_000,
        b"NaN" * 100_000,
        b"\xff" * 10,
        b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP64","data":[1]}]}',
        b"",
        b"\x00",
    ],
)
def test_known_tricks(rest, body):
    for path in (INFER, "/invocations?fleet=ridges", "/v2/repository/models/column/load"):
        told = rest.ask("POST", path, body, JSON)
        require_sound(told)
        if path == INFER:
            assert told.status == 400
            assert len(told.body) < 2000


def test_numbers_that_are_none_never_leave_as_json(rest):
    told = rest.post(INFER, request(rows=[[1e308, 1e308], [1.0, 2.0]]))
    assert told.status == 200
    for value in told.output("prediction"):
        assert value is None or math.isfinite(value)
