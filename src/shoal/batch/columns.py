"""The type of a column of texts: the first that all of its values have, found block by block.

What a fleet says of its columns goes before what they look like. Where a value is not of the kind that it says, the
column stays as its texts are, and each is read by itself when it is scored: see :mod:`shoal.table.texts`.
"""

from collections.abc import Callable, Mapping

import polars as pl

from shoal.table.texts import INEXACT, PLAIN_DATE, READINGS, numbers
from shoal.types import KeyType

TEXT_KIND, NUMBER_KIND = "string", "number"
"""What a fleet says of a column, beside the types of keys: a text whatever it looks like; a number."""


def _exact_numbers(text: pl.Expr) -> pl.Expr:
    """Doubles; none for an integer that no double holds, or a column would lose it for a neighbour's point."""
    exact = text.cast(pl.Int64, strict=False).abs().fill_null(0) <= INEXACT
    return pl.when(exact).then(text.cast(pl.Float64, strict=False)).otherwise(None)


#: How a text becomes a value of each type; null where it does not.
CASTS: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "integer": lambda text: text.cast(pl.Int64, strict=False),
    "number": _exact_numbers,
    "double": lambda text: text.cast(pl.Float64, strict=False),
    "boolean": lambda text: text.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean),
    "date": lambda text: text.str.extract(f"^({PLAIN_DATE})$").str.to_date("%Y-%m-%d", strict=False),
    "time": lambda text: text.str.replace(" ", "T").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
    ),
}

_TRIED = ("integer", "number", "boolean", "date", "time")
_TRIED_AS: Mapping[str, tuple[str, ...]] = {
    TEXT_KIND: (), NUMBER_KIND: ("integer", "double", "boolean"),
    **{str(kind): (str(kind),) for kind in READINGS},
}  # fmt: skip


def as_declared(kind: str) -> Callable[[pl.Expr], pl.Expr]:
    """How texts become values of a kind that a fleet says, each by itself; null where they do not."""
    return numbers if kind == NUMBER_KIND else READINGS[KeyType(kind)]


class TypeSearch:
    """Looks at a file's columns of texts, one block after the other.

    Parameters
    ----------
    declared : mapping of str to str
        What the fleet says of columns: a type of keys, where :data:`TEXT_KIND` stays a text whatever it looks like, or
        :data:`NUMBER_KIND`.
    """

    def __init__(self, declared: Mapping[str, str]) -> None:
        self._declared = declared
        self._possible: dict[str, list[str]] = {}
        self._filled: set[str] = set()

    def look(self, block: pl.DataFrame) -> None:
        """Leave out the types that values of a block do not have."""
        for name in block.columns:
            if name not in self._possible:
                kind = self._declared.get(name)
                self._possible[name] = list(_TRIED if kind is None else _TRIED_AS[kind])
        asked = [name for name in block.columns if self._possible.get(name)]
        filled = [name for name in asked if block[name].null_count() < block.height]
        self._filled.update(filled)
        tests = {f"{number}-{kind}": _fits(pl.col(name), kind)
                 for number, name in enumerate(filled) for kind in self._possible[name]}  # fmt: skip
        fits = block.select(**tests).row(0, named=True) if tests else {}
        for number, name in enumerate(filled):
            self._possible[name] = [kind for kind in self._possible[name] if fits[f"{number}-{kind}"]]

    @property
    def found(self) -> dict[str, str]:
        """A name out of :data:`CASTS` for each column that is not to stay as it is."""
        return {name: kinds[0] for name, kinds in self._possible.items() if kinds and name in self._filled}


def _fits(text: pl.Expr, kind: str) -> pl.Expr:
    return (CASTS[kind](text).is_not_null() | text.is_null()).all()
