"""Runs: what was done, and what became of every row."""

import msgspec
from fastapi import APIRouter

from shoal.server.management.callers import PREFIX
from shoal.server.management.listings import Limit, State
from shoal.workspace import Workspace


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["runs"])
    ledger = workspace.ledger

    @routes.get("/runs")
    def list_runs(
        state: State = None,
        fleet: str | None = None,
        kind: str | None = None,
        limit: Limit = 50,
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
