"""Statements in a driver's own words: what SQLAlchemy makes of one is kept, so that running it again costs little.

SQLAlchemy spells a statement with a list of values out anew each time it is run, and looks up how each parameter and
column is converted; for a statement that reads one row, that takes longer than the trip to the database.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

_MOST_KEPT: Final = 64
"""Lengths of the list whose words are kept."""


class SpelledStatement:
    """A statement whose values and columns the driver knows as they are; safe to use from several threads.

    Parameters
    ----------
    statement : sqlalchemy.Executable
        The statement.
    dialect : sqlalchemy.Dialect
        Of the database that will run it.
    listed : str, optional
        Its expanding parameter, if it has one.
    """

    def __init__(self, statement: sa.Executable, dialect: sa.Dialect, *, listed: str | None = None) -> None:
        self._compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self._listed = listed
        self._kept: dict[int, _Words] = {}

    def run(self, connection: sa.Connection, values: Mapping[str, Any]) -> sa.CursorResult[Any]:
        """Run it.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            Of a database of this dialect.
        values : mapping
            Of all parameters; for the expanding one a sequence, of tuples where it is about several columns.

        Returns
        -------
        sqlalchemy.CursorResult
            Rows as the driver gives them.
        """
        length = len(values[self._listed]) if self._listed is not None else 0
        words = self._kept.get(length)
        if words is None:
            words = self._spell(values)
            if len(self._kept) < _MOST_KEPT:
                self._kept[length] = words
        return connection.exec_driver_sql(words.text, self._bound(words, values))

    def _spell(self, values: Mapping[str, Any]) -> "_Words":
        state = self._compiled.construct_expanded_state(dict(values))
        listed = () if self._listed is None else tuple(state.parameter_expansion[self._listed])
        fixed = {name: value for name, value in state.parameters.items() if name not in (*listed, *values)}
        positions = None if state.positiontup is None else tuple(state.positiontup)
        return _Words(state.statement, listed, fixed, positions)

    def _bound(self, words: "_Words", values: Mapping[str, Any]) -> Any:
        bound = words.fixed | {name: value for name, value in values.items() if name != self._listed}
        if self._listed is not None:
            bound.update(zip(words.listed, _flat(values[self._listed]), strict=True))
        return bound if words.positions is None else tuple([bound[name] for name in words.positions])


class _Words(NamedTuple):
    """A statement for a list of one length.

    Attributes
    ----------
    text : str
        As the driver takes it.
    listed : tuple of str
        The parameters that the list became.
    fixed : dict of str to object
        Parameters that are part of the statement.
    positions : tuple of str or None
        The order of the parameters, where the driver goes by that.
    """

    text: str
    listed: tuple[str, ...]
    fixed: dict[str, Any]
    positions: tuple[str, ...] | None


def _flat(listed: Sequence[Any]) -> Sequence[Any]:
    return list(chain.from_iterable(listed)) if listed and isinstance(listed[0], tuple) else listed
