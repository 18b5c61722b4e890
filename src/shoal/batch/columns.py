"""The type of a column of texts: the first that all of its values have, found block by block."""

from collections.abc import Callable, Collection, Mapping

import polars as pl

#: How a text becomes a value of each type, in the order in which they are tried; null where it does not.
CASTS: Mapping[str, Callable[[pl.Expr], pl.Expr]] = {
    "integer": lambda text: text.cast(pl.Int64, strict=False),
    "number": lambda text: text.cast(pl.Float64, strict=False),
    "boolean": lambda text: text.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean),
    "date": lambda text: text.str.to_date("%Y-%m-%d", strict=False),
    "time": lambda text: text.str.replace(" ", "T").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
    ),
}


class TypeSearch:
    """Looks at a file's columns of texts, one block after the other.

    Parameters
    ----------
    texts : collection of str
        Columns that stay texts whatever they look like.
    """

    def __init__(self, texts: Collection[str]) -> None:
        self._texts = frozenset(texts)
        self._possible: dict[str, list[str]] = {}
        self._filled: set[str] = set()

    def look(self, block: pl.DataFrame) -> None:
        """Leave out the types that values of a block do not have."""
        for name in block.columns:
            if name not in self._texts:
                self._possible.setdefault(name, list(CASTS))
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
