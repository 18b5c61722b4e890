"""What tritonclient's asynchronous HTTP client can ask, told as JSON; run with that client's interpreter."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException


def inputs_of(job, *, binary, keys=True):
    columns = {
        "device": ("BYTES", np.array(job["devices"], dtype=object)),
        "line": ("INT64", np.array(job["lines"], dtype=np.int64)),
        "x": ("FP64", np.array(job["xs"])),
        "y": ("FP64", np.array(job["ys"])),
    }
    inputs = []
    for name, (datatype, values) in columns.items():
        if keys or name in ("x", "y"):
            inputs.append(triton.InferInput(name, [len(values)], datatype))
            inputs[-1].set_data_from_numpy(values, binary_data=binary)
    return inputs


def told(result):
    outcomes = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("outcome").tolist()]
    return {"prediction": result.as_numpy("prediction").tolist(), "outcome": outcomes}


async def refusal(call):
    try:
        await call
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


async def main():
    job = json.load(sys.stdin)
    headers = job["headers"]
    async with triton.InferenceServerClient(job["address"]) as client:

        def infer(model="ridges", *, binary=True, keys=True, **more):
            inputs = inputs_of(job, binary=binary, keys=keys)
            return client.infer(model, inputs, headers=dict(headers), **more)  # a copy: the client adds its own to it

        plain = [triton.InferRequestedOutput(name, binary_data=False) for name in ("prediction", "outcome")]
        many = await asyncio.gather(*[infer() for _ in range(20)])
        result = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("ridges", headers=headers),
            "server": await client.get_server_metadata(headers=headers),
            "model": await client.get_model_metadata("ridges", headers=headers),
            "single model": await client.get_model_metadata(job["single"], headers=headers),
            "answers": {
                "json": told(await infer(binary=False, outputs=plain)),
                "binary": told(await infer()),
                "gzip": told(
                    await infer(request_compression_algorithm="gzip", response_compression_algorithm="gzip")
                ),
                "deflate": told(
                    await infer(request_compression_algorithm="deflate", response_compression_algorithm="deflate")
                ),
                **{f"together {number}": told(one) for number, one in enumerate(many)},
            },
            "single": told(await infer(job["single"], keys=False)),
            "statistics": await client.get_inference_statistics("ridges", headers=headers),
            "index": await client.get_model_repository_index(headers=headers),
            "refused": {"unknown": await refusal(infer("nothing"))},
        }  # fmt: skip
        await client.unload_model("labels", headers=headers)
        result["unloaded"] = await client.get_model_repository_index(headers=headers)
        await client.load_model("labels", headers=headers)
        result["loaded"] = await client.is_model_ready("labels", headers=headers)
    json.dump(result, sys.stdout)


asyncio.run(main())
