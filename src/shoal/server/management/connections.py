"""Named sources, sinks and stores: looked at only, for their definitions come from the person at the machine."""

from fastapi import APIRouter

from shoal.registry import StoreRecord
from shoal.requests.sources import document as source_document
from shoal.server.management.callers import PREFIX
from shoal.serving.sinks import document as sink_document
from shoal.workspace import Workspace


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["connections"])

    @routes.get("/sources")
    def list_sources() -> list[dict[str, object]]:
        """List where features are looked up and predictions cached; secrets are names of environment variables."""
        return [{"name": name, **source_document(source)} for name, source in workspace.sources().items()]

    @routes.get("/sources/{name}")
    def show_source(name: str) -> dict[str, object]:
        """Show a source."""
        return {"name": name, **source_document(workspace.source(name))}

    @routes.get("/sinks")
    def list_sinks() -> list[dict[str, object]]:
        """List where results may go; secrets are names of environment variables."""
        return [{"name": name, **sink_document(sink)} for name, sink in workspace.sinks().items()]

    @routes.get("/sinks/{name}")
    def show_sink(name: str) -> dict[str, object]:
        """Show a sink."""
        return {"name": name, **sink_document(workspace.sink(name))}

    @routes.get("/stores")
    def list_stores() -> list[StoreRecord]:
        """List the categories whose snapshots are kept in a folder of their own."""
        return workspace.registry.stores()

    return routes
