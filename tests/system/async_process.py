"""A process that works on predictions and kills itself: ``async_process.py HOME URL PHASE COUNT``."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from shoal.jobs.states import PredictionState
from shoal.serving.deferred import DeferredPredictions, Wishes
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.messages import Datatype, InferenceRequest, RequestContext, Tensor
from shoal.serving.plane import DataPlane
from shoal.settings import Settings
from shoal.storage.sink_parquet import SinkFolder
from shoal.workspace import Workspace

OPTIONS = DeferredOptions(poll_s=0.02, sweep_s=0.05, backoff_s=0.02)
POISON = 13.0


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def request(value: float) -> InferenceRequest:
    numbers = [Tensor(name=n, datatype=Datatype.FP64, shape=(1,), data=[v]) for n, v in (("a", value), ("b", 0.0))]
    device = Tensor(name="device", datatype=Datatype.BYTES, shape=(1,), data=["d0"])
    return InferenceRequest(model="pumps", inputs=(device, *numbers))


def arm(phase: str, workspace: Workspace) -> None:
    """See to it that the process dies at its phase."""
    turn, publish, infer = workspace.predictions.turn, SinkFolder.publish, DataPlane.infer

    def dying_turn(results, new, wanted, **given):
        states = {result.state for result in results}
        if phase == "scored" and PredictionState.DONE in states:
            die()
        done = turn(results, new, wanted, **given)
        if (
            (phase == "accepted" and len(done.accepted) > 1)
            or (phase == "kept" and PredictionState.CLAIMED in states)
            or (phase == "settled" and PredictionState.DONE in states)
        ):
            die()
        return done

    def dying_publish(*given):
        publish(*given)
        if phase == "delivered":
            die()

    async def dying_infer(self, asked, context):
        if phase == "claimed" or (phase == "poison" and asked.inputs[1].data[0] == POISON):
            die()
        return await infer(self, asked, context)

    workspace.predictions.turn = dying_turn
    SinkFolder.publish = dying_publish
    DataPlane.infer = dying_infer


async def main(home: str, url: str, phase: str, count: int) -> None:
    with Workspace(Settings(home=Path(home), database_url=url, actor="ada")) as workspace:
        arm(phase, workspace)
        plane = workspace.data_plane(["pumps"])
        await plane.start()
        deferred: DeferredPredictions = workspace.deferred(plane, OPTIONS)
        deferred.start()

        async def ask(number: int) -> None:
            context = RequestContext(request_id=f"r{number}", principal="ada")
            wishes = Wishes(sink="lake", ordering_key="k" if number % 4 == 0 else None)
            accepted = await deferred.accept(request(float(number)), context, wishes)
            sys.stdout.write(f"{accepted.id}\n")
            sys.stdout.flush()

        await asyncio.gather(*map(ask, range(count)))
        while workspace.predictions.backlog().requests:
            await asyncio.sleep(0.02)
        await deferred.drain(5)
        await plane.drain(5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
