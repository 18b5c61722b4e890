"""Aliases: which snapshot each names, how they moved, and moving them."""

from typing import Annotated

from fastapi import APIRouter, Body, Header
from pydantic import Field
from starlette.requests import Request

from shoal.registry import CHAMPION, AliasChange, AliasRecord
from shoal.registry.names import PRINTABLE
from shoal.server.management.asked import Asked
from shoal.server.management.callers import PREFIX, acting_as
from shoal.server.management.listings import Limit
from shoal.workspace import Workspace

Key = Annotated[
    str | None,
    Header(pattern=f"^{PRINTABLE.pattern}$", description="The same request sent again with it is done once"),
]


class Promotion(Asked):
    """Which snapshot an alias shall name."""

    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    alias: str = CHAMPION
    expected: Annotated[
        int | None,
        Field(ge=0, le=2**31 - 1, description="Refuse when the alias names another version by now (0: none)"),
    ] = None
    reason: str = ""


class Rollback(Asked):
    """Which alias shall name the snapshot that it named before."""

    alias: str = CHAMPION
    expected: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None
    reason: str = ""


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["fleets"])
    registry = workspace.registry

    @routes.get("/fleets/{name}/aliases")
    def list_aliases(name: str) -> list[AliasRecord]:
        """List a fleet's aliases, and when and by whom each was moved last."""
        return registry.aliases(name)

    @routes.get("/fleets/{name}/history")
    def show_history(name: str, alias: str | None = None, limit: Limit = 50) -> list[AliasChange]:
        """Show how aliases moved, newest first."""
        return registry.alias_history(name, alias)[:limit]

    @routes.post("/fleets/{name}/promote")
    def promote(name: str, body: Promotion, request: Request, idempotency_key: Key = None) -> AliasChange:
        """Make an alias name a snapshot, at once and for everybody."""
        return workspace.promote(
            name, body.version, alias=body.alias, actor=acting_as(request), expected=body.expected, reason=body.reason,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    @routes.post("/fleets/{name}/rollback")
    def rollback(
        name: str,
        body: Annotated[Rollback, Body(default_factory=Rollback)],
        request: Request,
        idempotency_key: Key = None,
    ) -> AliasChange:
        """Make an alias name the snapshot it named before; again goes further back."""
        return workspace.rollback(
            name, alias=body.alias, actor=acting_as(request), expected=body.expected, reason=body.reason,
            idempotency_key=idempotency_key,
        )  # fmt: skip

    return routes
