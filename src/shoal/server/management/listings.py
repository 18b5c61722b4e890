"""Listings: what they are asked with, and answers that are long tables, a page of rows at a time."""

from typing import Annotated, TypeAlias

import msgspec
import polars as pl
from fastapi import Query
from pydantic import BeforeValidator
from starlette.responses import Response

from shoal.jobs.states import RunState
from shoal.serving.listings import columns_of
from shoal.storage import filters

Limit: TypeAlias = Annotated[
    int, BeforeValidator(lambda value: filters.limit(value, most=filters.MOST)), Query(ge=1, le=filters.MOST)
]
State: TypeAlias = Annotated[RunState | None, BeforeValidator(lambda value: filters.word("state", RunState, value))]


def page_of(frame: pl.DataFrame, rows: str, *, offset: int, limit: int, **said: object) -> Response:
    """A page of a frame.

    Parameters
    ----------
    frame : polars.DataFrame
        All of it.
    rows : str
        What the rows are called in the answer.
    offset, limit : int
        Which rows.
    **said : object
        What else the answer has.
    """
    shown = frame.slice(offset, limit).to_dicts()
    told = {**said, "total": frame.height, "columns": columns_of(frame), rows: shown}
    return Response(msgspec.json.encode(told), media_type="application/json")
