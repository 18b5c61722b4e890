"""What routes take: bodies of exactly the types that are described, and no parameter that is not."""

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from shoal.server.errors import WrongContent
from shoal.server.management.operations import JSON
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
    require_known(request.query_params, query_of(request))


async def only_json(request: Request) -> None:
    """Refuse a body of another kind, or of none: a form of any web page could send it.

    Raises
    ------
    WrongContent
        The content type is not JSON's.
    """
    if body_of(request) is None or not await request.body():
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise WrongContent(f"the content-type has to be {JSON}")


def query_of(request: Request) -> list[str]:
    """The parameters of the query that a request's route knows."""
    return [field.alias for field in request.scope["route"].dependant.query_params]


def body_of(request: Request) -> type[BaseModel] | None:
    """What a request's route takes as its body; None where it takes none."""
    field = request.scope["route"].body_field
    return None if field is None else field.field_info.annotation
