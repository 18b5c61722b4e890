"""The FastAPI application, its errors in our form, and its description for people and programs.

FastAPI takes a quarter of a second to import, so it is built when it is first asked for. Its own page of documentation
loads its parts from the internet; ours needs nothing.
"""

import asyncio
import functools
import importlib.metadata
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import ShoalError
from shoal.server.errors import error_body, headers_of, status_of, told
from shoal.server.management.callers import PREFIX
from shoal.server.management.description import describe
from shoal.server.management.page import page
from shoal.serving.contact import Contact
from shoal.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI


_OPENAPI: Final = f"{PREFIX}/openapi.json"
_DOCS: Final = f"{PREFIX}/docs"
_DESCRIPTIONS: Final = (_OPENAPI, _DOCS)
"""Routes that need no registry."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_DESCRIPTION: Final = (
    "Inference over the open protocol, and fleets, aliases, serving, runs and API keys of a Shoal workspace. Errors "
    'are `{"error": "what to do"}`. With an admin port, management and metrics are there, and inference is not.'
)


class Management:
    """The management API as a door.

    Parameters
    ----------
    workspace : Workspace
        What is managed.
    contact : Contact
        Whether the registry answers, which nearly every route needs.
    """

    def __init__(self, workspace: Workspace, contact: Contact) -> None:
        self._workspace = workspace
        self._contact = contact
        self._app: ASGIApp | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; refuse it at once where it would wait for a registry that is away."""
        if scope["shoal.rule"].template not in _DESCRIPTIONS:
            self._contact.require()
        app = self._app or await self._built()
        await app(scope, receive, send)

    async def _built(self) -> ASGIApp:
        async with self._lock:
            if self._app is None:
                self._app = await asyncio.to_thread(build, self._workspace)
            return self._app


def build(workspace: Workspace) -> "FastAPI":
    """The application over a workspace."""
    from fastapi import Depends, FastAPI
    from fastapi.exceptions import RequestValidationError

    from shoal.server.management import aliases, asked, connections, fleets, keys, runs, serving

    app = FastAPI(
        title="Shoal",
        version=importlib.metadata.version("shoal"),
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(asked.only_known), Depends(asked.only_json)],
    )
    for part in (fleets, aliases, serving, connections, runs, keys):
        app.include_router(part.router(workspace))

    @functools.cache
    def description() -> dict[str, object]:
        return describe(app.openapi())

    @app.get(_OPENAPI, include_in_schema=False)
    def openapi() -> Response:
        return Response(msgspec.json.encode(description()), media_type="application/json")

    @app.get(_DOCS, include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(description()), headers={"content-security-policy": _POLICY})

    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(ShoalError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    return app


async def _invalid(request: Request, error: Exception) -> Response:
    """Name each field and what is wrong with it."""
    from fastapi.exceptions import RequestValidationError

    from shoal.server.management.asked import body_of, query_of
    from shoal.server.management.refusals import refusal

    assert isinstance(error, RequestValidationError)
    return await _failed(request, refusal(error.errors(), body_of(request), query_of(request)))


async def _failed(request: Request, error: Exception) -> Response:
    shown = told(error, request.scope.get("shoal.request_id", ""))
    headers = {name.decode(): value.decode() for name, value in headers_of(shown)}
    return Response(error_body(str(shown)), status_of(shown), headers, "application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(error_body(str(error.detail)), error.status_code, error.headers, "application/json")
