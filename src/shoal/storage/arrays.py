"""Many rows as a few arrays, one per column: PostgreSQL reads those ten times as fast as thousands of parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


def unnested(types: Mapping[str, "sa.types.TypeEngine[Any]"], rows: Sequence[Mapping[str, object]]) -> sa.FromClause:
    """Rows as something to select from; for PostgreSQL only.

    Parameters
    ----------
    types : mapping of str to type
        The columns, and what they hold; not arrays themselves.
    rows : sequence of mapping
        All with these columns.

    Returns
    -------
    FromClause
        Has the columns, and ``place``: the row's position, from 1.
    """
    arrays = [
        sa.bindparam(None, [row[name] for row in rows], type_=postgresql.ARRAY(kind), unique=True)
        for name, kind in types.items()
    ]
    columns = [sa.column(name, kind) for name, kind in types.items()]
    return sa.func.unnest(*arrays).table_valued(*columns, with_ordinality="place").render_derived(name="given")


def among(kind: "sa.types.TypeEngine[Any]", values: Sequence[object]) -> sa.ColumnElement[Any]:
    """Any of the values, to be compared with a column: one parameter, however many they are; for PostgreSQL only."""
    return sa.any_(sa.bindparam(None, list(values), type_=postgresql.ARRAY(kind), unique=True))
