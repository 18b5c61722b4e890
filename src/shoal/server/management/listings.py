"""Answers that are long tables: a page of rows, how many there are, and the kinds of the columns."""

import msgspec
import polars as pl
from starlette.responses import Response

from shoal.serving.listings import columns_of


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
