"""Many models behind Ray Serve's model multiplexing: ``python -m benchmarks.peer_servers.ray_app FOLDER PORT``."""

import signal
import sys
from pathlib import Path

import joblib
import numpy as np
import ray
from ray import serve
from starlette.requests import Request

MODELS_PER_REPLICA = 10_000
"""All of them fit, so that a replica loads each model once; the default of three would load nearly every time."""


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Multiplexed:
    """One replica that loads models when they are asked for."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    @serve.multiplexed(max_num_models_per_replica=MODELS_PER_REPLICA)
    async def load(self, name: str) -> object:
        """Load a model's file."""
        return joblib.load(self._folder / f"{name}.joblib")

    async def __call__(self, request: Request) -> dict[str, float]:
        """Answer one row."""
        model = await self.load(serve.get_multiplexed_model_id())
        row = await request.json()
        return {"prediction": float(model.predict(np.array([row["features"]]))[0])}  # type: ignore[attr-defined]


def main(folder: str, port: int) -> None:
    """Serve until told to end."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
    serve.run(Multiplexed.bind(folder), blocking=False)
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
