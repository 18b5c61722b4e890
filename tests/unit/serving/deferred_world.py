"""A workspace on any database, a plane that can be made to fail, and processes that work on predictions."""

import asyncio
import contextlib
import time

from shoal.ledger import prediction_queue
from shoal.serving.deferred import DeferredPredictions, Wishes
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.messages import InferenceRequest, RequestContext
from shoal.serving.options import ServingOptions
from shoal.serving.payloads import decode_response
from shoal.serving.sinks import Sinks
from shoal.settings import Settings
from shoal.workspace import Workspace
from tests.unit.serving.fleets import constant, tensor

OPTIONS = DeferredOptions(poll_s=0.02, sweep_s=0.05, backoff_s=0.02, longest_backoff_s=0.05)
FOREVER_S = 60.0
DEADLINES_S = (0.2, 1.0, 5.0, 15.0)
"""A machine may be so busy that a request's deadline passes before any worker comes to it; then the next is tried."""


def request(value=0.5, device="a", model="pumps"):
    return InferenceRequest(model=model, inputs=(tensor("device", [device]), tensor("x", [value])))


def context(principal="ada", request_id="r1"):
    return RequestContext(request_id=request_id, principal=principal)


class Faulty:
    """A data plane whose answers fail as long as ``fault(request)`` gives an error; it notes what it was asked."""

    def __init__(self, plane):
        self.plane = plane
        self.fault = lambda request: None
        self.asked = []
        self.may = asyncio.Event()
        self.may.set()
        self.at_once = self.most_at_once = 0

    async def infer(self, request, context):
        value = request.inputs[1].data[0] if len(request.inputs) > 1 else None
        self.asked.append(value)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.may.wait()
            error = self.fault(request)
            if error is not None:
                raise error
            return await self.plane.infer(request, context)
        finally:
            self.at_once -= 1

    async def check(self, request):
        await self.plane.check(request)

    def serves(self, fleet):
        return self.plane.serves(fleet)

    def require(self, fleet):
        self.plane.require(fleet)

    @property
    def contact(self):
        return self.plane.contact

    def index(self, *, ready=None):
        return self.plane.index(ready=ready)


@contextlib.contextmanager
def opened(url, home):
    """A workspace with one fleet whose models answer 7."""
    with Workspace(Settings(home=home, database_url=url, actor="ada")) as workspace:
        workspace.promote("pumps", workspace.register(constant(7.0)).version)
        yield workspace


@contextlib.asynccontextmanager
async def process(workspace, options=OPTIONS, fleets=(), claiming=True, category=""):
    """What a process of a server does, in this event loop."""
    plane = workspace.data_plane(fleets, category=category, options=ServingOptions(poll_s=0.02))
    await plane.start()
    faulty = Faulty(plane)
    deferred = DeferredPredictions(
        faulty, workspace.predictions, Sinks(lambda name: workspace.registry.source(name).spec), options
    )
    if not claiming:
        deferred._loop.stop_claiming()
    deferred.start()
    try:
        yield deferred, faulty
    finally:
        faulty.may.set()
        await deferred.drain(5)
        await plane.drain(5)


async def accepted(deferred, request, context, wishes):
    """Have a request accepted; its id."""
    return (await deferred.accept(request, context, wishes)).id


async def ended(deferred, prediction_id):
    """Wait for a prediction's end, and give it back."""
    deadline = time.monotonic() + FOREVER_S
    while True:
        await deferred.wait(prediction_id, 0.5)
        record = await deferred.get(prediction_id)
        if record.is_settled:
            return record
        assert time.monotonic() < deadline, record


async def until(condition):
    deadline = time.monotonic() + FOREVER_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.005)


async def worked_on_too_long(deferred, plane):
    """Have a request accepted whose deadline passes while a worker is at it, however busy the machine is; its id."""
    plane.may.clear()
    for deadline_s in DEADLINES_S:
        value, until_s = 100 + deadline_s, time.monotonic() + deadline_s
        one = await accepted(deferred, request(value), context(), Wishes(deadline_s=deadline_s))
        await until(lambda value=value, until_s=until_s: value in plane.asked or time.monotonic() > until_s)
        if value in plane.asked:
            break
    await asyncio.sleep(deadline_s)  # from when it is worked on: the worker's deadline cannot be later
    plane.may.set()
    return one


async def stood_still(workspace, deferred):
    """As if a process had stood still until its leases ran out: nothing is renewed or claimed. What it holds."""
    loop, database = deferred._loop, workspace.predictions._database
    loop.stop_claiming()
    await loop._in_thread(lambda: None)  # A turn under way would claim again what is let go below.
    held = loop._held.copy()
    loop._held.clear()
    with database.write() as connection:
        assert prediction_queue.end_leases(connection, loop._owner, now=database.now(connection)) == len(held)
    return held


def value_of(record):
    return decode_response(record.answer).outputs[0].data[0]


def keyed(key):
    return Wishes(ordering_key=key)
