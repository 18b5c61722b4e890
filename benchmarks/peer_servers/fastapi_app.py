"""One model behind FastAPI and pydantic, as many teams write it: ``python -m benchmarks.peer_servers.fastapi_app``."""

import sys

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(sys.argv[1])


class Row(BaseModel):
    """What a client sends."""

    a: float
    b: float
    c: float
    d: float


class Answer(BaseModel):
    """What it gets."""

    prediction: float


@app.post("/predict")
async def predict(row: Row) -> Answer:
    """Answer in the event loop: for a small model that is faster than the thread pool of a plain function."""
    return Answer(prediction=float(model.predict(np.array([[row.a, row.b, row.c, row.d]]))[0]))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
