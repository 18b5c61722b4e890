"""What KServe's REST client can ask, told as JSON; run with that client's interpreter."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request_of(job, *, binary, keys=True, model="ridges", name="seven"):
    columns = {
        "device": ("BYTES", np.array(job["devices"], dtype=object)),
        "line": ("INT64", np.array(job["lines"], dtype=np.int64)),
        "x": ("FP64", np.array(job["xs"])),
        "y": ("FP32", np.array(job["ys"], dtype=np.float32)),
    }
    inputs = []
    for column, (datatype, values) in columns.items():
        if keys or column in ("x", "y"):
            inputs.append(InferInput(column, [len(values)], datatype))
            inputs[-1].set_data_from_numpy(values, binary_data=binary)
    parameters = {"binary_data_output": True} if binary else None
    return InferRequest(model, inputs, request_id=name, parameters=parameters)


def told(response):
    outputs = {output.name: output.as_numpy().reshape(-1).tolist() for output in response.outputs}
    outputs["outcome"] = [v.decode() if isinstance(v, bytes) else v for v in outputs["outcome"]]
    return outputs | {"id": response.id, "version": response.model_version}


async def refusal(call):
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, error.response.json()["error"]]
    return None


async def main():
    job = json.load(sys.stdin)
    url, headers = f"http://{job['address']}", job["headers"]
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    def infer(request, model="ridges"):
        return client.infer(url, request, model_name=model, headers=dict(headers))

    result = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "ridges", headers=headers),
        "nothing ready": await client.is_model_ready(url, "nothing", headers=headers),
        "answers": {
            "json": told(await infer(request_of(job, binary=False))),
            "binary": told(await infer(request_of(job, binary=True))),
        },
        "single": told(await infer(request_of(job, binary=True, keys=False), model=job["single"])),
        "refused": {"unknown": await refusal(infer(request_of(job, binary=True), model="nothing"))},
    }
    await client.close()
    json.dump(result, sys.stdout)


asyncio.run(main())
