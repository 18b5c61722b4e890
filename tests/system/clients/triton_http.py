"""Everything that tritonclient's synchronous HTTP client can ask, told as JSON; run with that client's interpreter."""

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def inputs_of(job, *, binary, floats="FP64", keys=True):
    """The job's rows as the client sends them."""
    count = len(job["xs"])
    columns = {
        "device": ("BYTES", np.array(job["devices"], dtype=object)),
        "line": ("INT64", np.array(job["lines"], dtype=np.int64)),
        "x": (floats, np.array(job["xs"]).astype({"FP64": "f8", "FP32": "f4", "FP16": "f2"}[floats])),
        "y": ("FP64", np.array(job["ys"], dtype=np.float64)),
    }
    inputs = []
    for name, (datatype, values) in columns.items():
        if keys or name in ("x", "y"):
            inputs.append(triton.InferInput(name, [count], datatype))
            inputs[-1].set_data_from_numpy(values, binary_data=binary)
    return inputs


def matrix_inputs(job, *, binary):
    """The job's rows with both features in one tensor, as a server of one scikit-learn model takes them."""
    keys = inputs_of(job, binary=binary)[:2]
    matrix = np.column_stack([job["xs"], job["ys"]]).astype(np.float64)
    both = triton.InferInput("input-0", list(matrix.shape), "FP64")
    both.set_data_from_numpy(matrix, binary_data=binary)
    return [*keys, both]


def outputs_of(*names, binary):
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def told(result, *names):
    """The outputs as lists; texts come as bytes from the client."""
    found = {}
    for name in names:
        values = result.as_numpy(name)
        found[name] = [v.decode() if isinstance(v, bytes) else v for v in values.reshape(-1).tolist()]
    return found | {"version": result.get_response()["model_version"], "id": result.get_response().get("id")}


def packed(coding):
    return {"request_compression_algorithm": coding, "response_compression_algorithm": coding}


def refusal(call):
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def main():
    job = json.load(sys.stdin)
    headers = job["headers"]
    client = triton.InferenceServerClient(job["address"], concurrency=2)
    both = ("prediction", "outcome")

    def infer(model="ridges", **more):
        inputs = more.pop("inputs", None) or inputs_of(job, binary=True)
        return client.infer(model, inputs, headers=dict(headers), **more)  # a copy: the client adds its own to it

    plain = inputs_of(job, binary=False)
    answers = {
        "json": told(infer(inputs=plain, outputs=outputs_of(*both, binary=False), request_id="seven"), *both),
        "binary": told(infer(outputs=outputs_of(*both, binary=True)), *both),
        "binary in": told(infer(outputs=outputs_of(*both, binary=False)), *both),
        "binary out": told(infer(inputs=plain, outputs=outputs_of(*both, binary=True)), *both),
        "usual": told(infer(), *both),
        "single precision": told(infer(inputs=inputs_of(job, binary=True, floats="FP32")), *both),
        "half precision": told(infer(inputs=inputs_of(job, binary=True, floats="FP16")), *both),
        "matrix": told(infer(inputs=matrix_inputs(job, binary=True)), *both),
        "matrix as json": told(infer(inputs=matrix_inputs(job, binary=False)), *both),
        "version": told(infer(model_version="1", timeout=10_000_000), *both),
        "gzip": told(infer(**packed("gzip")), *both),
        "deflate": told(infer(**packed("deflate")), *both),
        "later": told(
            client.async_infer("ridges", inputs_of(job, binary=True), headers=dict(headers)).get_result(), *both
        ),
    }  # fmt: skip
    levels = infer(outputs=outputs_of("model_level", "snapshot", binary=True))
    single = infer(job["single"], inputs=inputs_of(job, binary=True, keys=False))
    labels = infer("labels", inputs=inputs_of(job, binary=True, keys=False))
    result = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("ridges", headers=headers),
        "single ready": client.is_model_ready(job["single"], headers=headers),
        "nothing ready": client.is_model_ready("nothing", headers=headers),
        "server": client.get_server_metadata(headers=headers),
        "model": client.get_model_metadata("ridges", headers=headers),
        "single model": client.get_model_metadata(job["single"], headers=headers),
        "answers": answers,
        "levels": told(levels, "model_level", "snapshot"),
        "single": told(single, *both),
        "labels": told(labels, "prediction", "probability"),
        "statistics": client.get_inference_statistics("ridges", headers=headers),
        "all statistics": client.get_inference_statistics(headers=headers),
        "index": client.get_model_repository_index(headers=headers),
        "refused": {
            "unknown": refusal(lambda: infer("nothing")),
            "lacks": refusal(lambda: infer(inputs=inputs_of(job, binary=True)[:2])),
            "key": refusal(lambda: client.get_server_metadata(headers={"x-api-key": "wrong"})),
            "config": refusal(lambda: client.load_model("labels", headers=headers, config="{}")),
            "file": refusal(
                lambda: client.load_model("labels", headers=headers, config="{}", files={"file:1/model.bin": b"x"})
            ),
        },
    }
    client.unload_model("labels", headers=headers)
    result["unloaded"] = client.get_model_repository_index(headers=headers)
    result["not loaded"] = refusal(lambda: infer("labels", inputs=inputs_of(job, binary=True, keys=False)))
    client.load_model("labels", headers=headers)
    result["loaded"] = client.is_model_ready("labels", headers=headers)
    client.close()
    json.dump(result, sys.stdout)


main()
