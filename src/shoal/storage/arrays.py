"""Many values as a few arrays: PostgreSQL reads those ten times as fast as thousands of parameters.

And a statement may have only so many parameters, on SQLite as well.
"""

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


def one_of(column: "sa.Column[Any]", name: str, *, dialect: str) -> sa.ColumnElement[bool]:
    """Whether a column has one of the values of a list, which is one parameter, however long it is.

    Parameters
    ----------
    column : Column
        Of texts or numbers.
    name : str
        The parameter's; its value is a list.
    dialect : {"sqlite", "postgresql"}
        Where it is asked.
    """
    if dialect == "postgresql":
        given = sa.func.unnest(sa.bindparam(name, type_=postgresql.ARRAY(column.type)))
        # `IS true` keeps it a table of hashes that each row is looked up in. Without, it becomes a join, and what was
        # to be read in an index's order is sorted; `= ANY (...)` goes through the whole list for each row.
        return column.in_(sa.select(given)).is_(True)
    values = sa.func.json_each(sa.bindparam(name, type_=sa.JSON())).table_valued("value")
    return column.in_(sa.select(values.c.value))


def among(kind: "sa.types.TypeEngine[Any]", values: Sequence[object]) -> sa.ColumnElement[Any]:
    """Any of the values, to be compared with a column: one parameter, however many they are; for PostgreSQL only."""
    return sa.any_(sa.bindparam(None, list(values), type_=postgresql.ARRAY(kind), unique=True))
