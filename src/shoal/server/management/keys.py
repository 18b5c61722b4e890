"""API keys, and the audit."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Body
from pydantic import Field
from starlette.requests import Request

from shoal.registry import AuditCheck
from shoal.security.api_keys import LONGEST_LIFE_S, LONGEST_OVERLAP_S, ApiKeyRecord
from shoal.security.permissions import Role
from shoal.server.management.asked import Asked
from shoal.server.management.callers import PREFIX, acting_as
from shoal.server.management.listings import Limit
from shoal.workspace import Workspace

Expiry = Annotated[float | None, Field(gt=0, le=LONGEST_LIFE_S, description="Seconds it is taken; null for ever")]


class NewKey(Asked):
    """A key to be made."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    role: Annotated[Role, Field(strict=False)]  # one of its words
    expires_s: Expiry = None


class Rotation(Asked):
    """How a key is replaced."""

    overlap_s: Annotated[
        float, Field(ge=0, le=LONGEST_OVERLAP_S, description="How long the old key is still taken")
    ] = 86_400.0
    expires_s: Expiry = None


def router(workspace: Workspace) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["keys"])

    @routes.get("/keys")
    def list_keys() -> list[dict[str, object]]:
        """List the API keys; neither their texts nor their hashes."""
        return [_shown(record) for record in workspace.registry.keys()]  # noqa: SIM118 - no mapping

    @routes.post("/keys", status_code=201)
    def create_key(body: NewKey, request: Request) -> dict[str, object]:
        """Make an API key; its text is told this once and kept nowhere."""
        made = workspace.create_key(body.name, body.role, expires_s=body.expires_s, actor=acting_as(request))
        return {**_shown(made.record), "key": made.text}

    @routes.post("/keys/{id}/revoke")
    def revoke_key(id: str, request: Request) -> dict[str, object]:  # noqa: A002
        """Take a key no more, from now on and everywhere."""
        return _shown(workspace.registry.revoke_key(id, actor=acting_as(request)))

    @routes.post("/keys/{id}/rotate", status_code=201)
    def rotate_key(
        id: str,  # noqa: A002
        body: Annotated[Rotation, Body(default_factory=Rotation)],
        request: Request,
    ) -> dict[str, object]:
        """Make a key with the same name and role; the old one is taken for a while yet."""
        made = workspace.rotate_key(id, overlap_s=body.overlap_s, expires_s=body.expires_s, actor=acting_as(request))
        return {**_shown(made.record), "key": made.text}

    @routes.get("/audit")
    def list_audit(
        object: str | None = None,  # noqa: A002
        limit: Limit = 50,
    ) -> list[dict[str, object]]:
        """List the newest changes, newest first."""
        return [msgspec.to_builtins(entry) for entry in workspace.registry.audit(object=object, limit=limit)]

    @routes.get("/audit/check")
    def check_audit(noted: str | None = None) -> AuditCheck:
        """Recompute the audit's chain of digests; `noted` is the newest digest of an earlier check."""
        return workspace.registry.verify_audit(noted=noted)

    return routes


def _shown(record: ApiKeyRecord) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(record)
    del shown["hash"]
    return shown
