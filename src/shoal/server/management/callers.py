"""In whose name a change is made over HTTP."""

from starlette.requests import Request

from shoal.security.principals import Principal


def acting_as(request: Request) -> str:
    """The name of the caller's API key; what the audit shows."""
    principal: Principal = request.scope["shoal.principal"]
    return principal.name
