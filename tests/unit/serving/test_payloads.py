"""Requests and responses come back from their bytes as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArtifact
from shoal.serving.messages import Datatype, InferenceRequest, InferenceResponse, Tensor
from shoal.serving.payloads import decode_request, decode_response, encode_request, encode_response
from shoal.serving.tensors import NUMPY

ELEMENT = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
VALUE = st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans())
TENSOR = st.builds(
    Tensor,
    name=st.text(),
    datatype=st.sampled_from(Datatype),
    shape=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    data=st.lists(ELEMENT, max_size=6),
)
FIELDS = {"id": st.none() | st.text(), "parameters": st.dictionaries(st.text(), VALUE, max_size=3)}
REQUEST = st.builds(
    InferenceRequest,
    model=st.text(),
    version=st.none() | st.text(),
    outputs=st.none() | st.lists(st.text(), max_size=3).map(tuple),
    inputs=st.lists(TENSOR, max_size=3).map(tuple),
    **FIELDS,
)
RESPONSE = st.builds(
    InferenceResponse,
    model_name=st.text(),
    model_version=st.text(),
    outputs=st.lists(TENSOR, max_size=3).map(tuple),
    **FIELDS,
)


@given(REQUEST)
def test_requests_come_back(request):
    assert decode_request(encode_request(request)) == request


@given(RESPONSE)
def test_responses_come_back(response):
    assert decode_response(encode_response(response)) == response


@pytest.mark.parametrize("datatype", NUMPY)
def test_arrays_come_back_bit_by_bit(datatype):
    raw = np.arange(64, dtype=np.uint8) % 2 if datatype is Datatype.BOOL else np.arange(64, dtype=np.uint8)
    array = raw.view(NUMPY[datatype])
    for given_array in (array, array[::2], array.astype(array.dtype.newbyteorder(">"))):
        tensor = Tensor(name="x", datatype=datatype, shape=(len(given_array),), data=given_array)
        [found] = decode_request(encode_request(InferenceRequest(model="m", inputs=(tensor,)))).inputs
        assert found.data.dtype == NUMPY[datatype]
        assert found.data.tobytes() == given_array.astype(NUMPY[datatype]).tobytes()


def test_arrays_of_texts_become_lists():
    for array in (np.array(["a", "ü"]), np.array([b"a", None], dtype=object)):
        tensor = Tensor(name="x", datatype=Datatype.BYTES, shape=(2,), data=array)
        [found] = decode_request(encode_request(InferenceRequest(model="m", inputs=(tensor,)))).inputs
        assert found.data == array.tolist()


def test_missing_numbers_stay_missing():
    tensor = Tensor(name="x", datatype=Datatype.FP64, shape=(3,), data=[1.5, float("nan"), None])
    [found] = decode_response(
        encode_response(InferenceResponse(model_name="m", model_version="1", outputs=(tensor,)))
    ).outputs
    assert found.data[0] == 1.5
    assert np.isnan(found.data[1])
    assert found.data[2] is None


@pytest.mark.parametrize(
    ("damaged", "reader"),
    [
        (b"", decode_request),
        (b"\xff\x00", decode_request),
        (b"\x93\x01\xa1a", decode_response),
        (b"{}", decode_response),
    ],
)
def test_damaged_bytes_are_refused(damaged, reader):
    with pytest.raises(InvalidArtifact, match="cannot be read"):
        reader(damaged)


def test_bytes_that_are_no_whole_elements_are_refused():
    tensor = Tensor(name="x", datatype=Datatype.INT8, shape=(7,), data=np.zeros(7, dtype=np.int8))
    kept = encode_request(InferenceRequest(model="m", inputs=(tensor,)))
    with pytest.raises(InvalidArtifact, match="no tensor"):
        decode_request(kept.replace(b"INT8", b"FP64"))
