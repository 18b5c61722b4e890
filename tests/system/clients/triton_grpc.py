"""What tritonclient can ask over gRPC, told as JSON: ``triton_grpc.py sync|aio``, with that client's interpreter."""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

BOTH = ("prediction", "outcome")


def inputs_of(job, *, floats="FP64", keys=True):
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
            inputs[-1].set_data_from_numpy(values)
    return inputs


def outputs_of(*names):
    return [triton.InferRequestedOutput(name) for name in names]


def told(result, *names):
    found = {}
    for name in names:
        values = result.as_numpy(name)
        found[name] = [v.decode() if isinstance(v, bytes) else v for v in values.reshape(-1).tolist()]
    return found | {"version": result.get_response().model_version, "id": result.get_response().id}


def refused(error):
    return [str(error.status()), error.message()]


def refusal(call):
    try:
        call()
    except InferenceServerException as error:
        return refused(error)
    return None


def streamed(client, job, headers):
    """Two requests and a bad one between them through one stream."""
    came = queue.Queue()
    client.start_stream(callback=lambda result, error: came.put((result, error)), headers=headers)
    for model, number in (("ridges", "1"), ("nothing", "2"), ("ridges", "3")):
        client.async_stream_infer(model, inputs_of(job), request_id=number, outputs=outputs_of(*BOTH))
    answers = [came.get(timeout=60) for _ in range(3)]
    client.stop_stream()
    return [None if error is not None else told(result, *BOTH) for result, error in answers]


def sync(job):
    headers = job["headers"]
    client = triton.InferenceServerClient(job["grpc"])

    def infer(model="ridges", inputs=None, **more):
        return client.infer(model, inputs or inputs_of(job), headers=headers, **more)

    labels = infer("labels", inputs_of(job, keys=False))
    result = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("ridges", headers=headers),
        "server": client.get_server_metadata(headers=headers, as_json=True),
        "model": client.get_model_metadata("ridges", headers=headers, as_json=True),
        "single model": client.get_model_metadata(job["single"], headers=headers, as_json=True),
        "answers": {
            "usual": told(infer(), *BOTH),
            "named": told(infer(outputs=outputs_of(*BOTH), request_id="seven"), *BOTH),
            "single precision": told(infer(inputs=inputs_of(job, floats="FP32")), *BOTH),
            "half precision": told(infer(inputs=inputs_of(job, floats="FP16")), *BOTH),
            "version": told(infer(model_version="1", client_timeout=30), *BOTH),
            "gzip": told(infer(compression_algorithm="gzip"), *BOTH),
        },
        "levels": told(infer(outputs=outputs_of("model_level", "snapshot")), "model_level", "snapshot"),
        "single": told(infer(job["single"], inputs_of(job, keys=False)), *BOTH),
        "labels": told(labels, "prediction", "probability"),
        "streamed": streamed(client, job, headers),
        "statistics": client.get_inference_statistics("ridges", headers=headers, as_json=True),
        "index": client.get_model_repository_index(headers=headers, as_json=True),
        "refused": {
            "unknown": refusal(lambda: infer("nothing")),
            "lacks": refusal(lambda: infer(inputs=inputs_of(job)[:2])),
            "key": refusal(lambda: client.get_server_metadata(headers={"x-api-key": "wrong"})),
            "file": refusal(
                lambda: client.load_model("labels", headers=headers, config="{}", files={"file:1/model.bin": b"x"})
            ),
        },
    }
    client.unload_model("labels", headers=headers)
    result["unloaded"] = client.get_model_repository_index(headers=headers, as_json=True)
    client.load_model("labels", headers=headers)
    result["loaded"] = client.is_model_ready("labels", headers=headers)
    client.close()
    return result


async def aio(job):
    headers = job["headers"]
    async with triton_aio.InferenceServerClient(job["grpc"]) as client:
        answers = await asyncio.gather(*[client.infer("ridges", inputs_of(job), headers=headers) for _ in range(4)])
        single = await client.infer(job["single"], inputs_of(job, keys=False), headers=headers)
        try:
            await client.infer("nothing", inputs_of(job), headers=headers)
            unknown = None
        except InferenceServerException as error:
            unknown = refused(error)
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model": await client.get_model_metadata("ridges", headers=headers, as_json=True),
            "answers": {f"call {number}": told(answer, *BOTH) for number, answer in enumerate(answers)},
            "single": told(single, *BOTH),
            "unknown": unknown,
        }


def main():
    job = json.load(sys.stdin)
    json.dump(sync(job) if sys.argv[1] == "sync" else asyncio.run(aio(job)), sys.stdout)


main()
