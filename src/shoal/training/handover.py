"""How rows reach the workers: arrays in files that every process maps, so that no row is ever pickled.

All features lie row by row in one array of float64, ready for scikit-learn; a segment's rows are gathered from it by
position. Texts lie there as positions in a list and become texts again in the segment's own small frame. ``answers`` is
shared: after each level the training writes what the models kept so far answer to the held-out rows, and the workers
of the next, finer level compare with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.storage.files import storage_errors
from shoal.training.outliers import Cleaned
from shoal.training.segments import Segments
from shoal.training.splitting import Roles
from shoal.types import Feature, FeatureKind, Floats, Integers, Label

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Features and truth of all rows.

    Attributes
    ----------
    numbers : ndarray of float64, shape (rows, features)
        The features; missing is NaN. A text is its position in ``texts``.
    texts : mapping of str to polars.Series
        For every feature, in order, that is a text: all its values; an empty series for a number.
    truth : ndarray of float64, shape (rows,)
        The target, or the position of its label; 0 where there is none.
    """

    numbers: Floats
    texts: Mapping[str, pl.Series]
    truth: Floats

    def take(self, rows: Integers) -> Floats | pl.DataFrame:
        """The features of some rows, as a private copy: an array, or a frame where some features are texts."""
        chosen: Floats = np.take(self.numbers, rows, axis=0)
        if not any(len(values) for values in self.texts.values()):
            return chosen
        columns = pl.from_numpy(chosen, schema=list(self.texts))
        positions = pl.col([name for name, values in self.texts.items() if len(values)]).fill_nan(None).cast(pl.UInt32)
        coded = columns.with_columns(positions)
        return coded.with_columns(
            values.gather(coded[name]).alias(name) for name, values in self.texts.items() if len(values)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Handover:
    """The files as a process maps them.

    Attributes
    ----------
    fitting : Table
        Rows as models are fitted on them, clipped where the spec says so.
    measuring : Table
        Rows as they are.
    roles : ndarray of uint8, shape (rows,)
        What each row is used for.
    dropped : ndarray of bool, shape (rows,)
        Rows that no model is fitted on.
    answers : ndarray of float64, shape (rows, width)
        What the models kept so far answer to held-out rows; NaN where none does.
    """

    fitting: Table
    measuring: Table
    roles: Roles
    dropped: NDArray[np.bool_]
    answers: Floats


def write(
    folder: Path,
    frame: pl.DataFrame,
    cleaned: Cleaned,
    roles: Roles,
    *,
    features: Sequence[Feature],
    target: str | None,
    labels: Sequence[Label],
    width: int,
) -> None:
    """Write the rows of a training.

    Raises
    ------
    StorageError
        The disk is full.
    """
    with storage_errors(folder):
        _write_table(folder / "measuring", frame, features, target, labels)
        if cleaned.frame is not frame:
            _write_table(folder / "fitting", cleaned.frame, features, target, labels)
        np.save(folder / "roles.npy", roles)
        np.save(folder / "dropped.npy", cleaned.dropped)
        np.save(folder / "answers.npy", np.full((frame.height, width), np.nan))


def write_order(folder: Path, level: int, segments: Segments) -> None:
    """Write the order of rows at one level; raises as :func:`write` does."""
    with storage_errors(folder):
        np.save(folder / f"order{level}.npy", segments.order)


def read(folder: Path, *, writable_answers: bool = False) -> Handover:
    """Map what :func:`write` wrote."""
    measuring = _map_table(folder / "measuring")
    clipped = (folder / "fitting").is_dir()
    return Handover(
        fitting=_map_table(folder / "fitting") if clipped else measuring,
        measuring=measuring,
        roles=_map(folder / "roles.npy"),
        dropped=_map(folder / "dropped.npy"),
        answers=_map(folder / "answers.npy", "r+" if writable_answers else "r"),
    )


def read_order(folder: Path, level: int) -> Integers:
    """Map the order of rows at one level."""
    return _map(folder / f"order{level}.npy")


def _write_table(
    folder: Path, frame: pl.DataFrame, features: Sequence[Feature], target: str | None, labels: Sequence[Label]
) -> None:
    folder.mkdir()
    texts = {f.name: _texts(frame[f.name]) if f.kind is FeatureKind.CATEGORY else [] for f in features}
    numbers = np.empty((frame.height, len(features)))
    for i, (name, values) in enumerate(texts.items()):
        numbers[:, i] = _positions(frame[name], values) if values else frame[name].to_numpy()
    np.save(folder / "numbers.npy", numbers)
    np.save(folder / "truth.npy", _truth(frame, target, labels))
    (folder / "texts.json").write_bytes(msgspec.json.encode(texts))


def _texts(column: pl.Series) -> list[str]:
    return column.drop_nulls().unique().sort().to_list() or [""]


def _positions(column: pl.Series, values: Sequence[Label]) -> Floats:
    known = pl.Series(values, dtype=column.dtype)
    positions = pl.Series(range(len(values)), dtype=pl.Float64)
    return column.replace_strict(known, positions, default=None, return_dtype=pl.Float64).to_numpy()


def _truth(frame: pl.DataFrame, target: str | None, labels: Sequence[Label]) -> Floats:
    if target is None:
        return np.zeros(frame.height)
    column = frame[target]
    return _positions(column, labels) if labels else column.to_numpy()


def _map_table(folder: Path) -> Table:
    texts = msgspec.json.decode((folder / "texts.json").read_bytes(), type=dict[str, list[str]])
    return Table(
        numbers=_map(folder / "numbers.npy"),
        texts={name: pl.Series(name, values, dtype=pl.String) for name, values in texts.items()},
        truth=_map(folder / "truth.npy"),
    )


def _map(path: Path, mode: Any = "r") -> Array:
    return np.asarray(np.load(path, mmap_mode=mode))
