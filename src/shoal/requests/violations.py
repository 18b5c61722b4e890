"""Which rows a check or a rule has something against, and what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Violations:
    """Rows that something is wrong with.

    Attributes
    ----------
    rows : ndarray of bool, shape (rows,)
        Which they are; at least one.
    reasons : mapping of int to str
        Why, in plain words, by position of the row.
    """

    rows: NDArray[np.bool_]
    reasons: Mapping[int, str]

    @classmethod
    def of(cls, reasons: Mapping[int, str], height: int) -> "Violations | None":
        """Those rows of a frame of that height; None where there are none."""
        if not reasons:
            return None
        rows = np.zeros(height, dtype=np.bool_)
        rows[list(reasons)] = True
        return cls(rows=rows, reasons=reasons)


def first_reasons(found: Iterable[Mapping[int, str]]) -> dict[int, str]:
    """What is said of each row first."""
    merged: dict[int, str] = {}
    for reasons in found:
        merged = {**reasons, **merged}
    return merged
