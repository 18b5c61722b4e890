"""What is served: which fleets are loaded, by which alias, pinned to which version, and by which rules."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Body
from pydantic import Field
from starlette.requests import Request

from shoal.registry import Desired
from shoal.registry.serving import KEEP, Keep
from shoal.server.management.asked import Asked
from shoal.server.management.callers import PREFIX, acting_as
from shoal.workspace import Workspace


class Wish(Asked):
    """How a fleet is to be served from now on, by every server; what is left out stays as it is."""

    loaded: bool | None = None
    alias: Annotated[str | None, Field(description="The alias to follow; the fleet has to have it")] = None
    pinned: Annotated[
        int | None,
        Field(ge=1, le=2**31 - 1, description="A version that stays, wherever the alias moves; null lets it go"),
    ] = None
    spec: Annotated[dict[str, object] | None, Field(description="Rules, checks, cache, lookup, log, store, limits")] = (
        None
    )


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["serving"])
    registry = workspace.registry

    @routes.get("/serving")
    def list_serving() -> list[dict[str, object]]:
        """List the fleets that servers are told about, and what they are told."""
        return [_told(one) for one in registry.serving()]

    @routes.get("/serving/{name}")
    def show_serving(name: str) -> dict[str, object]:
        """Show what servers are told about a fleet."""
        return _told(registry.desired(name))

    @routes.put("/serving/{name}")
    def set_serving(
        name: str, body: Annotated[Wish, Body(default_factory=Wish)], request: Request
    ) -> dict[str, object]:
        """Load or unload a fleet, pin it, or change its rules; every server follows within a second."""
        actor = acting_as(request)
        pinned: int | Keep | None = body.pinned if "pinned" in body.model_fields_set else KEEP
        workspace.set_serving(name, body.spec, loaded=body.loaded, alias=body.alias, pinned=pinned, actor=actor)
        return _told(registry.desired(name))

    return routes


def _told(desired: Desired) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(desired)
    return told
