"""The REST door behind the real stack, over a real data plane with fleets of every task; asked without sockets."""

import asyncio
import contextlib
import datetime as dt
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import OneClassSVM
from stack_world import Keys

from shoal.fleet import Fleet
from shoal.server.authentication import KeyRing
from shoal.server.limits import Traffic
from shoal.server.options import Limits, ServerOptions
from shoal.server.rest import InferenceApp
from shoal.server.stack import Stack, build_stack
from shoal.serving.options import ServingOptions
from shoal.serving.plane import DataPlane
from shoal.telemetry.logs import LineWriter
from shoal.telemetry.metrics import Metrics
from shoal.workspace import Workspace, open_workspace

_GENERATOR = np.random.default_rng(3)
X = _GENERATOR.normal(size=(40, 2))
ODD = "a:b c%/é"
RIDGES = {
    ("a", 1): Ridge().fit(X, X @ [1.0, 2.0]),
    ("b", 2): Ridge().fit(X, X @ [3.0, -1.0]),
    (ODD, 3): Ridge().fit(X, X @ [-2.0, 5.0]),
}
CLASSIFIER = LogisticRegression().fit(X, np.where(X[:, 0] > 0, "yes", "no"))
COLUMN = Ridge().fit(X[:, :1], 4 * X[:, 0])
DAY = dt.date(2026, 1, 2)
DETECTOR = OneClassSVM(nu=0.2).fit(X)
ROWS = np.array([[1.0, 2.0], [3.0, -4.0]])
JSON = {"content-type": "application/json"}
BODY_BYTES = 1 << 20


def fleets() -> list[Fleet]:
    """``ridges`` by a text and an integer, ``labels`` and ``column`` without a key, ``alarms`` by date and boolean."""
    make = Fleet.from_estimators
    return [
        make(keys=["device", "line"], models=RIDGES, features=["x", "y"], task="regression", name="ridges"),
        make(keys=[], models={(): CLASSIFIER}, features=["x", "y"], task="classification", name="labels"),
        make(keys=[], models={(): COLUMN}, features=["x"], task="regression", name="column"),
        make(keys=["day", "night"], models={(DAY, True): DETECTOR}, features=["x", "y"], task="anomaly", name="alarms"),
    ]


def make_home(home: Path) -> None:
    """A workspace with the fleets, all promoted."""
    with open_workspace(home) as workspace:
        for fleet in fleets():
            workspace.promote(fleet.name, workspace.register(fleet).version)


@dataclass(frozen=True)
class Told:
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    def output(self, name):
        return next(one for one in self.json["outputs"] if one["name"] == name)["data"]


@dataclass
class Rest:
    runner: asyncio.Runner
    workspace: Workspace
    plane: DataPlane
    stack: Stack
    traffic: Traffic
    logged: int

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        pieces: Sequence[bytes] = (),
        hangs_up: bool = False,
    ) -> Told:
        """Send a request, its body in one piece or in several."""
        return self.runner.run(self._ask(method, path, headers or {}, pieces or (body,), hangs_up))

    async def _ask(self, method, path, headers, pieces, hangs_up):
        raw_path, _, query = path.partition("?")
        sent, left = [], list(pieces)

        async def receive():
            if not left:
                return {"type": "http.disconnect"}
            piece = left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(left) or hangs_up}

        async def send(message):
            sent.append(message)

        length = {"content-length": str(len(pieces[0]))} if len(pieces) == 1 else {"transfer-encoding": "chunked"}
        scope = {
            "type": "http",
            "method": method,
            "path": raw_path,
            "raw_path": raw_path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in {**length, **headers}.items()],
            "client": ("127.0.0.1", 1),
        }
        await self.stack.app(scope, receive, send)
        start, *rest = sent
        assert start["type"] == "http.response.start"
        content = b"".join(message.get("body", b"") for message in rest)
        told = dict(start["headers"])
        assert int(told[b"content-length"]) == len(content)
        return Told(start["status"], told, content)

    def get(self, path: str, **headers: str) -> Told:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, value: object, **headers: str) -> Told:
        return self.ask("POST", path, json.dumps(value).encode(), {**JSON, **headers})


@contextlib.contextmanager
def rest_world(home: Path, names: Sequence[str], *, body_bytes: int = BODY_BYTES) -> Iterator[Rest]:
    """The door over some fleets of a workspace."""
    reading, writing = os.pipe()
    log = LineWriter(writing)
    with asyncio.Runner() as runner, open_workspace(home, actor="tester") as workspace:
        plane = workspace.data_plane(names, options=ServingOptions(poll_s=0.02))
        runner.run(plane.start())
        traffic = Traffic()
        traffic.open = True
        ring = KeyRing(Keys(), local=True)
        ring.refresh()
        app = InferenceApp(plane, body_bytes=body_bytes)
        stack = build_stack(
            dict.fromkeys(("v2", "invocations", "ping"), app),
            ring=ring,
            traffic=traffic,
            metrics=Metrics(),
            log=log,
            options=ServerOptions(limits=Limits(body_bytes=body_bytes)),
        )
        yield Rest(runner, workspace, plane, stack, traffic, reading)
        runner.run(plane.drain(1.0))
    log.close(20)
    for end in (reading, writing):
        os.close(end)


def tensor(name, datatype, data, shape=None, **parameters):
    made = {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}
    return {**made, "parameters": parameters} if parameters else made


def request(devices=("a", "b"), lines=(1, 2), rows=ROWS, **more):
    """A request to ``ridges``."""
    xs, ys = np.asarray(rows, dtype=float).T.tolist()
    inputs = [
        tensor("device", "BYTES", list(devices)),
        tensor("line", "INT64", list(lines)),
        tensor("x", "FP64", xs),
        tensor("y", "FP64", ys),
    ]
    return {"inputs": inputs, **more}


def expected(devices=("a", "b"), lines=(1, 2), rows=ROWS):
    """What scikit-learn predicts."""
    rows = np.asarray(rows, dtype=float)
    return [RIDGES[key].predict([row])[0] for key, row in zip(zip(devices, lines, strict=True), rows, strict=True)]
