"""The gRPC door answers as the fleet does, and turns what it cannot answer into a status."""

import asyncio
import struct

import grpc
import numpy as np
import polars as pl
import pytest
from grpc_world import serving
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from shoal.fleet import Fleet
from shoal.server.grpc import inference_pb2 as pb
from shoal.workspace import open_workspace

GENERATOR = np.random.default_rng(3)
X = GENERATOR.normal(size=(40, 2))
RIDGES = {("a", 1): Ridge().fit(X, X @ [1.0, 2.0]), ("b", 2): Ridge().fit(X, X @ [3.0, -1.0])}
CLASSIFIER = LogisticRegression().fit(X, np.where(X[:, 0] > 0, "yes", "no"))
FIELDS = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents", "FP32": "fp32_contents"}


@pytest.fixture
def workspace(tmp_path):
    with open_workspace(tmp_path / "home") as workspace:
        ridges = Fleet.from_estimators(
            keys=["device", "line"], models=RIDGES, features=["x", "y"], task="regression", name="ridges"
        )
        labels = Fleet.from_estimators(
            keys=[], models={(): CLASSIFIER}, features=["x", "y"], task="classification", name="labels"
        )
        for fleet in (ridges, labels):
            workspace.promote(fleet.name, workspace.register(fleet).version)
        yield workspace


def ask(workspace, *calls):
    """Send messages one after the other; answers, or the errors with their status."""

    async def work():
        async with serving(workspace) as here:
            answers = []
            for name, message in calls:
                try:
                    answers.append(await here.unary(name)(message, timeout=20))
                except grpc.aio.AioRpcError as error:
                    answers.append(error)
            return answers

    return asyncio.run(work())


def test_an_id_that_cannot_be_kept_is_refused_where_results_are_durable(workspace):
    workspace.set_serving("labels", {"store": "durable"})
    inputs = [tensor("x", "FP64", [1.0]), tensor("y", "FP64", [1.0])]

    async def work():
        codes = []
        async with serving(workspace) as here:
            for given in ("order 7", "a" * 129, "order-7", ""):
                metadata = (("x-request-id", given),)
                call = here.unary("ModelInfer")(
                    pb.ModelInferRequest(model_name="labels", inputs=inputs), metadata=metadata
                )
                codes.append((await call.code(), await call.details()))
        return codes

    odd, long, *others = asyncio.run(work())
    for code, details in (odd, long):
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "give 1 to 128 letters" in details
    assert [code for code, _ in others] == [grpc.StatusCode.OK] * 2


def tensor(name, datatype, values, shape=None):
    made = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape or [len(values)])
    getattr(made.contents, FIELDS[datatype]).extend(values)
    return made


def request(model="ridges", devices=(b"a", b"b"), lines=(1, 2), rows=((1.0, 2.0), (3.0, 4.0)), **more):
    xs, ys = zip(*rows, strict=True)
    inputs = [
        tensor("device", "BYTES", devices),
        tensor("line", "INT64", lines),
        tensor("x", "FP64", xs),
        tensor("y", "FP64", ys),
    ]
    return pb.ModelInferRequest(model_name=model, inputs=inputs, **more)


def numbers(answer, name):
    place = [output.name for output in answer.outputs].index(name)
    return np.frombuffer(answer.raw_output_contents[place], dtype="<f8")


def texts(answer, name):
    place = [output.name for output in answer.outputs].index(name)
    raw, found = answer.raw_output_contents[place], []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return found


def test_answers_are_the_estimators(workspace):
    (answer,) = ask(workspace, ("ModelInfer", request(id="seven")))
    expected = [RIDGES["a", 1].predict([[1.0, 2.0]])[0], RIDGES["b", 2].predict([[3.0, 4.0]])[0]]
    np.testing.assert_allclose(numbers(answer, "prediction"), expected, rtol=1e-9)
    assert (answer.model_name, answer.model_version, answer.id) == ("ridges", "1", "seven")
    assert texts(answer, "outcome") == ["scored", "scored"]


def test_raw_contents_answer_as_plain_ones(workspace):
    raw = pb.ModelInferRequest(model_name="ridges")
    for name, datatype, content in [
        ("device", "BYTES", b"\x01\0\0\0a\x01\0\0\0b"),
        ("line", "INT64", np.array([1, 2]).astype("<i8").tobytes()),
        ("x", "FP64", np.array([1.0, 3.0]).tobytes()),
        ("y", "FP32", np.array([2.0, 4.0], dtype="<f4").tobytes()),
    ]:
        raw.inputs.append(pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[2, 1]))
        raw.raw_input_contents.append(content)
    plain, other = ask(workspace, ("ModelInfer", request()), ("ModelInfer", raw))
    assert numbers(plain, "prediction").tobytes() == numbers(other, "prediction").tobytes()


def test_features_may_come_side_by_side(workspace):
    keys = [tensor("device", "BYTES", [b"a", b"b"]), tensor("line", "INT64", [1, 2])]
    matrix = tensor("input-0", "FP64", [1.0, 2.0, 3.0, 4.0], [2, 2])
    single = tensor("input-0", "FP32", [1.0, 2.0, 3.0, 4.0], [2, 2])
    plain, other, own = ask(
        workspace,
        ("ModelInfer", request()),
        ("ModelInfer", pb.ModelInferRequest(model_name="ridges", inputs=[*keys, matrix])),
        ("ModelInfer", pb.ModelInferRequest(model_name="ridges:a:1", inputs=[single])),
    )
    assert numbers(plain, "prediction").tobytes() == numbers(other, "prediction").tobytes()
    np.testing.assert_allclose(numbers(own, "prediction"), RIDGES["a", 1].predict([[1.0, 2.0], [3.0, 4.0]]), rtol=1e-9)


def test_a_single_model_is_addressed_by_its_key(workspace):
    message = pb.ModelInferRequest(
        model_name="ridges:b:2", inputs=[tensor("x", "FP64", [3.0]), tensor("y", "FP64", [4.0])]
    )
    metadata, answer = ask(
        workspace, ("ModelMetadata", pb.ModelMetadataRequest(name="ridges:b:2")), ("ModelInfer", message)
    )
    assert [one.name for one in metadata.inputs] == ["x", "y"]
    assert numbers(answer, "prediction")[0] == pytest.approx(RIDGES["b", 2].predict([[3.0, 4.0]])[0])


def test_an_older_version_can_be_asked(workspace):
    other = Fleet.from_estimators(
        keys=["device", "line"], models={("a", 1): RIDGES["b", 2]}, features=["x", "y"], task="regression"
    )
    workspace.promote("ridges", workspace.register(other, "ridges").version)
    metadata, old, new, unknown = ask(
        workspace,
        ("ModelMetadata", pb.ModelMetadataRequest(name="ridges", version="1")),
        ("ModelInfer", request(model_version="1")),
        ("ModelInfer", request()),
        ("ModelReady", pb.ModelReadyRequest(name="ridges", version="7")),
    )
    assert metadata.name == "ridges"
    assert (old.model_version, new.model_version) == ("1", "2")
    assert numbers(old, "prediction")[0] == pytest.approx(RIDGES["a", 1].predict([[1.0, 2.0]])[0])
    assert numbers(new, "prediction")[0] == pytest.approx(RIDGES["b", 2].predict([[1.0, 2.0]])[0])
    assert texts(new, "outcome") == ["scored", "no_model"]
    assert unknown.code() is grpc.StatusCode.NOT_FOUND


def test_probabilities_come_per_class(workspace):
    message = pb.ModelInferRequest(
        model_name="labels", inputs=[tensor("x", "FP64", [1.0, -1.0]), tensor("y", "FP64", [0.0, 0.0])]
    )
    (answer,) = ask(workspace, ("ModelInfer", message))
    probabilities = numbers(answer, "probability").reshape(2, 2)
    np.testing.assert_allclose(probabilities, CLASSIFIER.predict_proba([[1.0, 0.0], [-1.0, 0.0]]), atol=1e-12)
    assert texts(answer, "prediction") == ["yes", "no"]


def test_the_server_describes_itself(workspace):
    live, ready, server, model_ready, index, statistics = ask(
        workspace,
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="ridges")),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="ridges")),
    )
    assert live.live
    assert ready.ready
    assert model_ready.ready
    assert server.name == "shoal"
    assert [(one.name, one.version, one.state) for one in index.models] == [
        ("labels", "1", "READY"),
        ("ridges", "1", "READY"),
    ]
    assert [(one.name, one.inference_count) for one in statistics.model_stats] == [("ridges", 0)]


REFUSED = [
    (request(model="nobody"), grpc.StatusCode.NOT_FOUND),
    (request(model="ridges:a"), grpc.StatusCode.NOT_FOUND),
    (request(model_version="9"), grpc.StatusCode.NOT_FOUND),
    (request(lines=(1,)), grpc.StatusCode.INVALID_ARGUMENT),
    (request(raw_input_contents=[b""]), grpc.StatusCode.INVALID_ARGUMENT),
    (pb.ModelInferRequest(model_name="ridges"), grpc.StatusCode.INVALID_ARGUMENT),
    (
        pb.ModelInferRequest(model_name="labels", inputs=[tensor("x", "FP64", [1.0], shape=[-1])]),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    (
        pb.ModelInferRequest(model_name="labels", inputs=[tensor("x", "BYTES", [b"\xff"])]),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
]


def test_what_does_not_fit_is_refused_with_its_status(workspace):
    answers = ask(workspace, *[("ModelInfer", message) for message, _ in REFUSED], ("ModelInfer", request()))
    for answer, (_, code) in zip(answers, REFUSED, strict=False):
        assert answer.code() is code, answer
        assert answer.details()
    assert len(numbers(answers[-1], "prediction")) == 2


def test_a_timeout_among_the_parameters_is_a_deadline(workspace):
    late, early, never = request(), request(), request()
    late.parameters["timeout"].int64_param = 1
    early.parameters["timeout"].uint64_param = 20_000_000
    never.parameters["timeout"].int64_param = 0  # none, as Triton has it
    refused, *answered = ask(workspace, *[("ModelInfer", message) for message in (late, early, never)])
    assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [len(numbers(one, "prediction")) for one in answered] == [2, 2]


def test_a_timeout_that_is_no_time_is_refused(workspace):
    odd = [request() for _ in range(4)]
    for message, field, value in zip(
        odd, ("int64_param", "string_param", "bool_param", "double_param"), (-1, "abc", True, 1.5), strict=True
    ):
        setattr(message.parameters["timeout"], field, value)
    for refused in ask(workspace, *[("ModelInfer", message) for message in odd]):
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "timeout" in refused.details()


def _wanting(name, **parameters):
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name=name)
    for parameter, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(output.parameters[parameter], field, value)
    return request(outputs=[output])


def test_outputs_in_forms_that_are_not_offered_are_refused(workspace):
    there = request()
    there.inputs[0].ClearField("contents")
    there.inputs[0].parameters["shared_memory_region"].string_param = "somewhere"
    refused = [_wanting("prediction", classification=2), _wanting("prediction", shared_memory_region="r"), there]
    fine = [_wanting("prediction", classification=0), _wanting("prediction", binary_data=1)]
    answers = ask(workspace, *[("ModelInfer", message) for message in [*refused, *fine]])
    assert [one.code() for one in answers[:3]] == [grpc.StatusCode.INVALID_ARGUMENT] * 3
    assert all("offered" in one.details() for one in answers[:3])
    assert [len(numbers(one, "prediction")) for one in answers[3:]] == [2, 2]


def test_what_only_keeps_busy_is_refused(workspace):
    nothing = pb.ModelInferRequest.InferInputTensor()
    (refused,) = ask(workspace, ("ModelInfer", pb.ModelInferRequest(model_name="ridges", inputs=[nothing] * 40_000)))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 32768 inputs" in refused.details()


def test_nothing_is_uploaded(workspace):
    message = pb.RepositoryModelLoadRequest(model_name="ridges")
    message.parameters["file:1/model.pkl"].bytes_param = b"cos\nsystem\n"
    (answer,) = ask(workspace, ("RepositoryModelLoad", message))
    assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "file:1/model.pkl" in answer.details()


def test_a_stream_goes_on_after_an_error(workspace):
    async def work():
        async with serving(workspace) as here:
            messages = [request(id="1"), request(model="nobody", id="2"), request(id="3")]
            return [answer async for answer in here.stream()(iter(messages), timeout=20)]

    first, second, third = asyncio.run(work())
    assert (first.infer_response.id, third.infer_response.id) == ("1", "3")
    assert second.infer_response.id == "2"
    assert "nobody" in second.error_message


names = st.sampled_from(["device", "line", "x", "y", "z", ""])
datatypes = st.sampled_from(["BYTES", "INT64", "FP64", "FP16", "BF16", "BOOL", "UINT8", "nonsense", ""])
shapes = st.lists(st.integers(-(2**40), 2**40) | st.integers(-1, 4), max_size=3)
tensors = st.builds(
    lambda name, datatype, shape, doubles, longs, raw: pb.ModelInferRequest.InferInputTensor(
        name=name,
        datatype=datatype,
        shape=shape,
        contents=pb.InferTensorContents(fp64_contents=doubles, int64_contents=longs, bytes_contents=raw),
    ),
    names, datatypes, shapes, st.lists(st.floats(), max_size=3), st.lists(st.integers(-9, 9), max_size=3),
    st.lists(st.binary(max_size=3), max_size=3),
)  # fmt: skip
messages = st.builds(
    lambda model, version, inputs, raw, outputs: pb.ModelInferRequest(
        model_name=model,
        model_version=version,
        inputs=inputs,
        raw_input_contents=raw,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    ),
    st.sampled_from(["ridges", "labels", "ridges:a:1", "ridges:%zz", ":", ""]),
    st.sampled_from(["", "1", "x", "-1", "9" * 30]),
    st.lists(tensors, max_size=5),
    st.lists(st.binary(max_size=20), max_size=5) | st.just([]),
    st.lists(st.sampled_from(["prediction", "outcome", "nothing"]), max_size=2),
)
EXPECTED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@settings(max_examples=10)
@given(st.lists(messages, min_size=20, max_size=20))
def test_hostile_messages_never_break_it(tmp_path_factory, hostile):
    with open_workspace(tmp_path_factory.mktemp("hostile")) as workspace:
        fleet = Fleet.from_estimators(
            keys=["device", "line"], models=RIDGES, features=["x", "y"], task="regression", name="ridges"
        )
        workspace.promote("ridges", workspace.register(fleet).version)
        labels = Fleet.from_estimators(keys=[], models={(): CLASSIFIER}, features=["x", "y"], task="classification")
        workspace.promote("labels", workspace.register(labels, "labels").version)
        for answer in ask(workspace, *[("ModelInfer", message) for message in hostile]):
            if isinstance(answer, grpc.aio.AioRpcError):
                assert answer.code() in EXPECTED, answer
                assert answer.details()


def test_the_frame_and_the_wire_agree(workspace):
    rows = [(float(i), float(-i)) for i in range(50)]
    devices, lines = (b"a", b"b") * 25, (1, 2) * 25
    (answer,) = ask(workspace, ("ModelInfer", request(devices=devices, lines=lines, rows=rows)))
    frame = pl.DataFrame(
        {
            "device": [device.decode() for device in devices],
            "line": lines,
            "x": [x for x, _ in rows],
            "y": [y for _, y in rows],
        }
    )
    expected = workspace.fleet("ridges").predict(frame)["prediction"].to_numpy()
    assert numbers(answer, "prediction").tobytes() == expected.tobytes()
