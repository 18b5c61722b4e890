"""Fleets, their snapshots and models."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from shoal.errors import InvalidInput
from shoal.registry import CHAMPION, FleetRecord, ModelVersion, SnapshotRecord
from shoal.server.management.asked import Asked
from shoal.server.management.callers import PREFIX, acting_as
from shoal.server.management.listings import Limit, page_of
from shoal.workspace import Workspace

Offset = Annotated[int, Query(ge=0, le=2**31 - 1)]
Version = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


class Words(Asked):
    """What is said about a fleet; what is left out or null stays as it is."""

    owner: str | None = None
    description: str | None = None
    category: str | None = None
    tags: list[str] | None = None


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["fleets"])
    registry = workspace.registry

    @routes.get("/fleets")
    def list_fleets(tag: str | None = None, category: str | None = None) -> list[FleetRecord]:
        """List the fleets, or those with a tag or of a category."""
        return registry.fleets(tag=tag, category=category)

    @routes.get("/fleets/{name}")
    def show_fleet(name: str) -> FleetRecord:
        """Show a fleet."""
        return registry.fleet(name)

    @routes.put("/fleets/{name}")
    def describe(name: str, body: Annotated[Words, Body(default_factory=Words)], request: Request) -> FleetRecord:
        """Say who owns a fleet, what it is for, which category it is of, and its tags."""
        return registry.describe(name, **body.model_dump(), actor=acting_as(request))

    @routes.get("/fleets/{name}/snapshots")
    def list_snapshots(name: str) -> list[SnapshotRecord]:
        """List a fleet's snapshots, newest first."""
        return registry.snapshots(name)

    @routes.get("/fleets/{name}/snapshots/{version}")
    def show_snapshot(name: str, version: Annotated[int, Path(ge=1, le=2**31 - 1)]) -> dict[str, object]:
        """Show a snapshot with its lineage."""
        found = {"snapshot": registry.snapshot(name, version), "lineage": registry.lineage(name, version)}
        return {**msgspec.to_builtins(found["snapshot"]), "lineage": msgspec.to_builtins(found["lineage"])}

    @routes.get("/fleets/{name}/models")
    def list_models(
        name: str,
        alias: str | None = None,
        version: Version = None,
        limit: Limit = 50,
        offset: Offset = 0,
    ) -> Response:
        """List the models of a snapshot with their metrics: of the champion, or of an alias or a version."""
        reference = f"{name}:{version}" if version is not None else f"{name}@{alias or CHAMPION}"
        fleet = workspace.fleet(reference)
        return page_of(fleet.models, "models", offset=offset, limit=limit, version=fleet.version)

    @routes.get("/fleets/{name}/models/history")
    def show_model_history(name: str, key: str) -> list[ModelVersion]:
        """Show the snapshots that brought a model of a key, newest first; keys are written `key1:key2`, `*` for any."""
        return registry.model_history(name, key)

    @routes.get("/fleets/{name}/diff")
    def show_diff(name: str, before: str, after: str, limit: Limit = 50, offset: Offset = 0) -> Response:
        """List the models that differ between two snapshots of a fleet, written as a version or an alias."""
        older, newer = (workspace.fleet(_reference(name, text)) for text in (before, after))
        return page_of(
            older.diff(newer), "changes", offset=offset, limit=limit, before=older.version, after=newer.version
        )

    return routes


def _reference(name: str, text: str) -> str:
    """A snapshot of a fleet, named by its version or an alias."""
    if not text:
        raise InvalidInput("before and after are versions or aliases, e.g. 3 or champion")
    return f"{name}:{text}" if text.isascii() and text.isdecimal() else f"{name}@{text}"
