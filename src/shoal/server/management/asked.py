"""What routes take: bodies of exactly the types that are described, and no parameter that is not."""

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from shoal.server.parameters import require_known


class Asked(BaseModel):
    """The body of a request; neither other fields nor values of other types are taken for what they may mean."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def only_known(request: Request) -> None:
    """Refuse a query parameter that the route does not know; what was misspelt would be ignored.

    Raises
    ------
    InvalidInput
        There is one.
    """
    require_known(request.query_params, [field.alias for field in request.scope["route"].dependant.query_params])
