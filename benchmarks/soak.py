"""The soak: for minutes at 80 % load, versions change every second and workers die, and no answer may be wrong.

Two servers on one database, SQLite's or, where SHOAL_DATABASE_URL says so, an empty one of PostgreSQL: the workers of
the first are killed in turn, the one of the second lives throughout, so that its memory can be watched.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np
import uvloop
from sklearn.linear_model import LinearRegression

from benchmarks import key_only, servers
from benchmarks.case import Bound, Effort, Result
from benchmarks.servers import Server
from benchmarks.soak_checker import DEVICE_UNIT, FLEET, VERSION_UNIT, Checker, Findings
from benchmarks.soak_clients import Connection, ask_at_once, ask_for_later, call, evenly, fetch, questions
from shoal.errors import Conflict
from shoal.families import pack
from shoal.fleet import Fleet
from shoal.security.permissions import Role
from shoal.table.facts import ModelFacts
from shoal.types import KeyColumn, KeyType, Task
from shoal.workspace import Workspace, open_workspace

KILLED: Final = "killed"
LIVING: Final = "living"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a soak does.

    Attributes
    ----------
    seconds : float
        How long.
    calibration_s : float
        How long the most that the servers can take is measured before, in seconds.
    share : float
        Load, of the most.
    callers : int
        Connections over REST, half of them to each server.
    grpc_per_s, later_per_s : float
        Calls over gRPC and requests that nobody waits for, per second.
    promote_s, kill_s : float
        Seconds between promotions, and between deaths of workers.
    stale_s : float
        How long after a promotion an older version may still answer, in seconds.
    settle_s : float
        How long after the end accepted requests may take to be done, in seconds.
    versions, devices : int
        Of the fleet.
    """

    seconds: float = 600.0
    calibration_s: float = 5.0
    share: float = 0.8
    callers: int = 16
    grpc_per_s: float = 50.0
    later_per_s: float = 50.0
    promote_s: float = 1.0
    kill_s: float = 5.0
    stale_s: float = 1.0
    settle_s: float = 60.0
    versions: int = 8
    devices: int = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What came of a soak.

    Attributes
    ----------
    findings : Findings
        What was seen.
    most_per_s, answered_per_s : float
        Requests per second over REST that the servers could take at most, and that they answered.
    memory : tuple of int
        What the processes that lived throughout had for themselves, second by second, in bytes.
    """

    findings: Findings
    most_per_s: float
    answered_per_s: float
    memory: tuple[int, ...]

    @property
    def growth_bytes(self) -> int:
        """How much more was used in the last fifth than in the fifth in the middle, at most."""
        count = len(self.memory)
        middle = self.memory[2 * count // 5 : 3 * count // 5 + 1]
        return max(self.memory[4 * count // 5 :]) - max(middle)


def publish(workspace: Workspace, plan: Plan, says: Callable[[int], int] = int) -> None:
    """Register the versions of the fleet and promote the first.

    Parameters
    ----------
    workspace : Workspace
        Where.
    plan : Plan
        How many, of how many models.
    says : callable
        Which version the models of a version say that they are; a checker that misses a lie is none.
    """
    for version in range(1, plan.versions + 1):
        workspace.register(_fleet(says(version), plan.devices))
    workspace.promote(FLEET, 1)


def _fleet(version: int, devices: int) -> Fleet:
    packed = (
        (("device",), (f"d{device}",), pack(_model(version, device), ["x"]), ModelFacts()) for device in range(devices)
    )
    return Fleet.from_packed(
        keys=[KeyColumn(name="device", type=KeyType.STRING)],
        levels=[("device",)],
        models=packed,
        features=[],
        task=Task.REGRESSION,
        name=FLEET,
    )


def _model(version: int, device: int) -> LinearRegression:
    """Whole numbers of this size add up exactly."""
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    model.coef_, model.intercept_ = np.ones(1), version * VERSION_UNIT + device * DEVICE_UNIT
    return model


def run(plan: Plan, *, reference: str = FLEET, says: Callable[[int], int] = int) -> Report:
    """Soak two servers in a new home, on the database that the environment names, else on the home's own.

    Parameters
    ----------
    plan : Plan
        What to do.
    reference : str
        What the servers serve; with ``soak:1`` they serve old versions, which has to be found.
    says : callable
        See :func:`publish`.

    Raises
    ------
    Conflict
        The database is in use: versions would not have the numbers that their models say.
    """
    with tempfile.TemporaryDirectory() as home, open_workspace(home) as workspace:
        if workspace.fleets():
            raise Conflict("the database of SHOAL_DATABASE_URL has fleets; make an empty one for the soak")
        publish(workspace, plan, says)
        key = workspace.create_key("soak", Role.ADMIN).text
        with _serving(Path(home), reference, key) as running:
            return uvloop.run(_Soak(plan, workspace, running).run())


@contextlib.contextmanager
def _serving(home: Path, reference: str, key: str) -> Iterator[dict[str, Server]]:
    with (
        servers.shoal(home, [reference], "--workers", "2", key=key) as killed,
        servers.shoal(home, [reference], key=key) as living,
    ):
        yield {KILLED: killed, LIVING: living}


class _Soak:
    """One soak, in an event loop."""

    def __init__(self, plan: Plan, workspace: Workspace, running: Mapping[str, Server]) -> None:
        self._plan = plan
        self._workspace = workspace
        self._servers = running
        self._checker = Checker(stale_s=plan.stale_s)
        self._asked = questions(plan.devices)
        self._accepted: asyncio.Queue[str] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._samples: list[int] = []

    async def run(self) -> Report:
        """Measure the most, then soak."""
        findings = self._checker.findings
        self._checker.promoting(1)
        self._checker.promoted(time.monotonic())
        most_per_s = await self._at_once_per_s(self._plan.calibration_s, self._callers(0.0))
        fetching = [asyncio.create_task(fetch(self._to(name), self._checker, self._accepted)) for name in self._servers]
        chores = [*self._callers(self._plan.share * most_per_s), *self._others()]
        answered_per_s = await self._at_once_per_s(self._plan.seconds, chores)
        await self._settle()
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        return Report(
            findings=findings, most_per_s=most_per_s, answered_per_s=answered_per_s, memory=tuple(self._samples)
        )

    async def _at_once_per_s(self, seconds: float, chores: Sequence[Coroutine[None, None, None]]) -> float:
        """Let chores work for a while; how many requests over REST were answered per second."""
        findings, started_s = self._checker.findings, time.monotonic()
        before = findings.answers - findings.calls - findings.done
        self._stopping.clear()
        tasks = [asyncio.create_task(chore) for chore in chores]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for one in done:
            one.result()
        self._stopping.set()
        answered = findings.answers - findings.calls - findings.done - before
        taken_s = time.monotonic() - started_s
        await asyncio.gather(*tasks)
        return answered / taken_s

    def _callers(self, per_s: float) -> list[Coroutine[None, None, None]]:
        """Callers over REST, as fast as they can where no rate is given."""
        interval_s = self._plan.callers / per_s if per_s else 0.0
        names = itertools.islice(itertools.cycle(self._servers), self._plan.callers)
        return [ask_at_once(self._to(name), self._checker, self._asked, interval_s, self._stopping) for name in names]

    def _others(self) -> list[Coroutine[None, None, None]]:
        checker, asked, stopping = self._checker, self._asked, self._stopping
        call_s, later_s = (len(self._servers) / rate for rate in (self._plan.grpc_per_s, self._plan.later_per_s))
        calling = [call(server, name, checker, asked, call_s, stopping) for name, server in self._servers.items()]
        later = [
            ask_for_later(self._to(name), checker, asked, later_s, stopping, self._accepted, name)
            for name in self._servers
        ]
        return [*calling, *later, self._promote(), self._kill(), self._watch()]

    def _to(self, name: str) -> Connection:
        return Connection(self._servers[name], name, self._checker)

    async def _promote(self) -> None:
        async for number in evenly(self._plan.promote_s, self._stopping):
            version = (number + 1) % self._plan.versions + 1
            self._checker.promoting(version)
            await asyncio.to_thread(self._workspace.promote, FLEET, version)
            self._checker.promoted(time.monotonic())

    async def _kill(self) -> None:
        async for _ in evenly(self._plan.kill_s, self._stopping):
            pid = random.choice(workers(self._servers[KILLED].pid) or [0])
            if pid:
                self._checker.killed(KILLED)
                os.kill(pid, signal.SIGKILL)

    async def _watch(self) -> None:
        async for _ in evenly(1.0, self._stopping):
            self._samples.append(own_bytes([self._servers[KILLED].pid, *servers.family(self._servers[LIVING].pid)]))

    async def _settle(self) -> None:
        """Wait until all that was accepted is done, then ask the ledger."""
        deadline_s = time.monotonic() + self._plan.settle_s
        while self._checker.waiting and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
        kept = await asyncio.to_thread(self._workspace.ledger.predictions.listed, limit=2**31 - 1)
        self._checker.kept([(one.idempotency_key, one.state) for one in kept])


def workers(supervisor: int) -> list[int]:
    """Processes that a supervisor has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    except FileNotFoundError:
        return []


def own_bytes(pids: Iterable[int]) -> int:
    """Memory that processes have for themselves, in bytes; what they map is everybody's."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total


def soak(effort: Effort) -> list[Result]:
    """Ten minutes; a minute where less is asked for."""
    report = run(Plan(seconds=600 * effort.scale))
    findings = report.findings
    for example in findings.examples:
        print(f"  {example}", file=sys.stderr)
    said = (
        f"{findings.answers:,} answers with {findings.rows:,} rows at {report.answered_per_s:,.0f} requests/s of at "
        f"most {report.most_per_s:,.0f}, {findings.calls:,} of them over gRPC; "
        f"{findings.accepted:,} accepted for later; {findings.promotions:,} promotions, "
        f"{findings.kills:,} workers killed, {findings.resets:,} connections ended by that, "
        f"{findings.refusals:,} requests asked to come again"
    )
    case = (
        f"soak of {600 * effort.scale / 60:.0f} minutes, asked for 80 % of the most, 2 servers on 1 database{_kind()}"
    )
    grown = 100 * report.growth_bytes / report.memory[len(report.memory) // 2]
    return [
        _limited(f"{case}: promises broken", findings.wrong.total(), "promises", 0, said),
        _limited(
            f"{case}: accepted requests not done once and rightly", findings.accepted - findings.done, "requests", 0
        ),
        _limited(f"{case}: last answer of the old version after a promotion", 1e3 * findings.lag_s, "ms", 1000),
        _limited(f"{case}: growth of memory from the middle to the end", grown, "%", 10),
    ]


def soak_on_postgresql(effort: Effort) -> list[Result]:
    """The same on a database of PostgreSQL."""
    with key_only.postgresql() as database:
        url = database.url(database.create())
        with mock.patch.dict(os.environ, {"SHOAL_DATABASE_URL": url}):
            return soak(effort)


def _kind() -> str:
    """Which kind of database was asked for; nothing where it is the usual one."""
    url = os.environ.get("SHOAL_DATABASE_URL", "")
    return " of PostgreSQL" if url.startswith("postgres") else ""


def _limited(case: str, figure: float, unit: str, limit: float, note: str = "") -> Result:
    return Result(
        case=case,
        against="a fixed limit",
        shoal=f"{figure:,.3g} {unit}".strip(),
        figure=figure,
        unit=unit,
        limit=limit,
        bound=Bound.AT_MOST,
        note=note,
    )


CASES = {"soak": soak, "soak-postgresql": soak_on_postgresql}
