"""Runs: what was done, and what became of every row."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from shoal.jobs.states import RunState
from shoal.server.management.callers import PREFIX
from shoal.workspace import Workspace


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["runs"])
    ledger = workspace.ledger

    @routes.get("/runs")
    def list_runs(
        state: RunState | None = None,
        fleet: str | None = None,
        kind: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 50,
    ) -> list[dict[str, object]]:
        """List the newest runs, newest first."""
        found = ledger.runs(state=state, fleet=fleet, kind=kind, limit=limit)
        return [msgspec.to_builtins(record) for record in found]

    @routes.get("/runs/{run}")
    def show_run(run: str) -> dict[str, object]:
        """Show a run: what it was told, its input files, and its ledger in total."""
        record, inputs, totals = ledger.run(run), ledger.inputs(run), ledger.totals(run)
        shown: dict[str, object] = msgspec.to_builtins(record)
        return shown | {"inputs": msgspec.to_builtins(inputs), "totals": msgspec.to_builtins(totals)}

    return routes
