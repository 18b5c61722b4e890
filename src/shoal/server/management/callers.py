"""Where the API is, and in whose name a change is made over it."""

from typing import Final

from starlette.requests import Request

from shoal.security.principals import Principal

PREFIX: Final = "/api/v1"
"""What every path of the management API begins with."""


def acting_as(request: Request) -> str:
    """The name of the caller's API key; what the audit shows."""
    principal: Principal = request.scope["shoal.principal"]
    return principal.name
