"""Fleet: the public face of a table of models."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.engines.threads import Threads
from shoal.errors import InvalidInput, NotFound
from shoal.scoring.frames import Frame, as_frame
from shoal.scoring.outcomes import Scored
from shoal.scoring.score import score as score_table
from shoal.settings import Settings
from shoal.storage.files import write_atomically
from shoal.table import manifest as manifests
from shoal.table import merging
from shoal.table.assembly import Entry, from_packed
from shoal.table.columns import with_metrics
from shoal.table.comparison import compare
from shoal.table.estimators import from_estimators
from shoal.table.facts import ModelFacts
from shoal.table.keys import DTYPES, check_key, frame_of_keys, key_text, level_name, require_same_key
from shoal.table.models import ModelTable
from shoal.table.store import SnapshotStore, read_limited
from shoal.table.verified import VerifiedFiles
from shoal.types import Feature, Key, KeyColumn, KeyValue, Label, Level, Task


class Fleet:
    """A set of models with the same key columns, features and task: one model per segment.

    Make one with :meth:`from_estimators`, :meth:`load`, or ``shoal.open().fleet(name)``. A fleet does not change:
    :meth:`merge`, :meth:`select` and :meth:`without` return new ones that share the memory of the old.

    Parameters
    ----------
    table : ModelTable
        The models.
    name : str
        Name of the fleet.
    version : int, optional
        Its snapshot's number, where it is one of a registry.
    parent : int, optional
        The snapshot that it was made from, where it is not one itself.
    """

    def __init__(
        self, table: ModelTable, *, name: str = "fleet", version: int | None = None, parent: int | None = None
    ) -> None:
        self.table = table
        self.name = name
        self.version = version
        self.parent = parent

    def _derived(self, table: ModelTable) -> "Fleet":
        """A fleet made from this one; it is no snapshot, but knows which it came from."""
        return Fleet(table, name=self.name, parent=self.version if self.version is not None else self.parent)

    @classmethod
    def from_estimators(
        cls,
        *,
        keys: Sequence[str],
        models: Mapping[Key, object],
        features: Sequence[str],
        task: str | Task,
        fallbacks: Mapping[Level, Mapping[Key, object]] | None = None,
        facts: Mapping[tuple[Level, Key], ModelFacts] | None = None,
        name: str = "fleet",
    ) -> "Fleet":
        """Lay fitted estimators out as a fleet.

        Parameters
        ----------
        keys : sequence of str
            Names of the key columns; none for a single model, whose key is ``()``.
        models : mapping of tuple to estimator
            A fitted scikit-learn estimator or pipeline per segment key.
        features : sequence of str
            The columns the estimators were fitted on, in their order.
        task : {"regression", "classification", "anomaly"}
            What they predict.
        fallbacks : mapping of level to mapping of tuple to estimator, optional
            Coarser models: a level is a tuple of key columns, ``()`` the global one; keys hold their values.
        facts : mapping of (level, key) to ModelFacts, optional
            What is known of each model.
        name : str
            Name of the fleet.

        Raises
        ------
        UnsupportedEstimator
            An estimator cannot be laid out; names the key and the part that stopped it.
        InvalidInput
            Keys, task or features do not fit each other.

        Examples
        --------
        >>> from sklearn.linear_model import Ridge
        >>> models = {("a",): Ridge().fit([[0.0], [1.0]], [0.0, 2.0]), ("b",): Ridge().fit([[0.0], [1.0]], [1.0, 1.0])}
        >>> fleet = Fleet.from_estimators(keys=["store"], models=models, features=["x"], task="regression")
        >>> len(fleet)
        2
        """
        table = from_estimators(
            keys=keys, models=models, features=features, task=task, fallbacks=fallbacks or {}, facts=facts or {}
        )
        return cls(table, name=name)

    @classmethod
    def from_packed(
        cls,
        *,
        keys: Sequence[KeyColumn],
        levels: Sequence[Level],
        models: Iterable[Entry],
        features: Sequence[Feature],
        task: Task,
        name: str = "fleet",
    ) -> "Fleet":
        """Lay models out that were packed before, e.g. by a training worker.

        Parameters
        ----------
        keys : sequence of KeyColumn
            The key columns.
        levels : sequence of Level
            The levels that have models; their order does not matter.
        models : iterable of (Level, Key, PackedModel, ModelFacts)
            The models.
        features : sequence of Feature
            Input columns that come first in :attr:`features`; those that only the models know follow.
        task : Task
            What the models predict.
        name : str
            Name of the fleet.

        Raises
        ------
        InvalidInput
            Two models have one key, or parts do not fit each other.
        """
        return cls(from_packed(keys=keys, levels=levels, features=features, task=task, models=models), name=name)

    @property
    def keys(self) -> tuple[KeyColumn, ...]:
        """The key columns."""
        return self.table.keys

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that models are keyed by, finest first."""
        return self.table.levels

    @property
    def features(self) -> tuple[Feature, ...]:
        """The input columns."""
        return self.table.features

    @property
    def task(self) -> Task:
        """What the fleet predicts."""
        return self.table.task

    @property
    def labels(self) -> tuple[Label, ...]:
        """Sorted class labels; empty unless the task is classification."""
        return self.table.labels

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        keys = ", ".join(column.name for column in self.keys) or "no key"
        version = f" version {self.version}" if self.version is not None else ""
        return (
            f"<Fleet {self.name!r}{version}: {len(self)} {self.task} models by ({keys}), {len(self.features)} features>"
        )

    @property
    def models(self) -> pl.DataFrame:
        """One row per model: key columns, ``level``, ``family``, ``rows``, ``trained_at``, window, ``run``, metrics.

        Every metric is a column ``metric.NAME``.
        """
        frame = self.table.frame
        names = [level_name(level) for level in self.levels]
        level = pl.Series("level", names, dtype=pl.String).gather(frame["level"].cast(pl.Int64))
        return with_metrics(frame.with_columns(level).drop("_number", strict=False))

    def predict(
        self, frame: Frame, *, outcome: bool = False, model_level: bool = False, snapshot: bool = False
    ) -> pl.DataFrame:
        """Predict every row with the model of its segment.

        Parameters
        ----------
        frame : polars.DataFrame, Arrow table, or mapping of str to array
            Key and feature columns; others are ignored.
        outcome, model_level, snapshot : bool
            Add a column of that name: what became of the row, which level answered, and the fleet's version.

        Returns
        -------
        polars.DataFrame
            One row per input row, in input order: the key columns, then ``prediction`` (regression), ``prediction``
            and ``probability`` (classification; the list's positions are :attr:`labels`), or ``score`` and
            ``is_anomaly`` (anomaly). Null where no model answered.

        Raises
        ------
        InvalidInput
            A column is missing or of an impossible type.
        """
        scored = self.score(as_frame(frame))
        return _with_columns(scored, scored.frame, self.version, outcome, model_level, snapshot)

    def score(self, frame: pl.DataFrame, *, threads: Threads | None = None, fallback: bool = True) -> Scored:
        """Predict, and say of every row what became of it; see :func:`shoal.scoring.score.score`."""
        return score_table(self.table, frame, threads=threads, fallback=fallback)

    def __getitem__(self, key: Key | str | int | bool | dt.date) -> "Model":
        """The model of one segment.

        Raises
        ------
        NotFound
            The segment has no model of its own.
        """
        parts = key if isinstance(key, tuple) else (key,)
        return Model(self, self._only(tuple(c.name for c in self.keys), parts), parts)

    def model(self, level: Level, key: Key) -> "Model":
        """The model of a key at a level, e.g. ``fleet.model((), ())`` for the global one; raises as ``[]`` does."""
        return Model(self, self._only(level, key), key)

    def _only(self, level: Level, key: Key) -> "Fleet":
        columns = [column for column in self.keys if column.name in level]
        check_key(columns, key)
        wanted = frame_of_keys(self.keys, level, [key])
        chosen = self.table.frame
        if level in self.levels:
            matches = [pl.col(c.name) == wanted[c.name][0] for c in columns]
            rows = chosen.filter(pl.col("level") == self.levels.index(level), *matches)
            if rows.height:
                return Fleet(
                    merging.select(self.table, rows["_number"].to_numpy()), name=self.name, version=self.version
                )
        raise NotFound(f"fleet {self.name!r} has no model for {key_text(self.keys, level, key)}; see fleet.models")

    def select(self, predicate: pl.Expr | Callable[[pl.DataFrame], pl.Series]) -> "Fleet":
        """A fleet of the models that meet a condition.

        Parameters
        ----------
        predicate : polars.Expr or callable
            A condition on the columns of :attr:`models`, or a function from that frame to a column of booleans.
        """
        mask = self.models.select(predicate).to_series() if isinstance(predicate, pl.Expr) else predicate(self.models)
        return self._derived(merging.select(self.table, self._numbers(mask)))

    def without(self, predicate: pl.Expr) -> "Fleet":
        """The fleet without the models that meet a condition on :attr:`models`; their rows fall back."""
        doomed = self._numbers(self.models.select(predicate).to_series())
        return self._derived(merging.remove(self.table, doomed))

    def _numbers(self, mask: pl.Series) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = self.table.frame["_number"].filter(mask).to_numpy()
        return numbers

    def merge(self, winners: "Fleet") -> "Fleet":
        """The fleet with another's models put over it: replaced where both have one, joined where only that has.

        Raises
        ------
        InvalidInput
            The other has different key columns or another task.
        """
        return self._derived(merging.merge(self.table, winners.table))

    def compact(self) -> "Fleet":
        """The same models without what merges have left behind."""
        return self._derived(merging.compact(self.table))

    def diff(self, other: "Fleet") -> pl.DataFrame:
        """What changed from this fleet to another: one row per model added, removed or changed.

        Returns
        -------
        polars.DataFrame
            Key columns, ``level``, ``change``, ``family`` and metrics before and after.

        Raises
        ------
        InvalidInput
            The other is no fleet.
        """
        if not isinstance(other, Fleet):
            raise InvalidInput(f"{other!r} is no fleet; write diff(workspace.fleet('NAME:VERSION'))")
        return with_metrics(compare(self.table, other.table), suffixes=("_before", "_after"))

    def save(self, folder: str | Path) -> int:
        """Write the fleet to a folder of its own and return the bytes written.

        Raises
        ------
        StorageError
            The disk is full or the folder not writable.
        """
        store = SnapshotStore(Path(folder), _verified())
        written = store.write(self.table, fleet=self.name, created_by=Settings.from_environment().actor)
        write_atomically(Path(folder) / "manifest.json", manifests.encode(written.manifest))
        return written.bytes_written

    @classmethod
    def load(cls, folder: str | Path) -> "Fleet":
        """Map a fleet that :meth:`save` wrote; files are checked completely the first time. No code in them can run.

        Raises
        ------
        NotFound
            There is no fleet in the folder.
        InvalidArtifact
            A file is damaged, tampered with or crafted.
        """
        manifest = manifests.decode(read_limited(Path(folder) / "manifest.json", "fleet; write one with fleet.save"))
        store = SnapshotStore(Path(folder), _verified())
        return cls(store.open_manifest(manifest), name=manifest.fleet)


class Model:
    """A single model of a fleet.

    Parameters
    ----------
    fleet : Fleet
        A fleet of this model only.
    key : Key
        Its segment key.
    """

    def __init__(self, parent: Fleet, fleet: Fleet, key: Key) -> None:
        self._fleet = fleet
        self.name = parent.name
        self.key = key

    @property
    def facts(self) -> dict[str, object]:
        """Family, rows trained on, metrics and so on, as in :attr:`Fleet.models`."""
        return self._fleet.models.row(0, named=True)

    @property
    def family(self) -> str:
        """The family that it is laid out by."""
        return str(self.facts["family"])

    def predict(
        self, frame: Frame, *, outcome: bool = False, model_level: bool = False, snapshot: bool = False
    ) -> pl.DataFrame:
        """Predict every row with this model; the frame needs the features only. Columns as in :meth:`Fleet.predict`.

        Raises
        ------
        InvalidInput
            A feature is missing or of an impossible type, or rows have another segment's key.
        """
        rows = as_frame(frame)
        said = [(column, self._value(column)) for column in self._fleet.keys if self._value(column) is not None]
        require_same_key(rows, said)
        level: Level = tuple(column.name for column, _ in said)
        table = dataclasses.replace(self._fleet.table, levels=(level,))
        keyed = rows.with_columns(
            pl.lit(self._value(column), dtype=DTYPES[column.type]).alias(column.name) for column in self._fleet.keys
        )
        scored = score_table(table, keyed)
        plain = scored.frame.drop([column.name for column in self._fleet.keys])
        return _with_columns(scored, plain, self._fleet.version, outcome, model_level, snapshot)

    def _value(self, column: KeyColumn) -> KeyValue:
        return cast("KeyValue", self.facts[column.name])

    def __repr__(self) -> str:
        return f"<Model {self.key!r} of {self.name!r}: {self.family}>"


def _with_columns(
    scored: Scored, predicted: pl.DataFrame, version: int | None, outcome: bool, model_level: bool, snapshot: bool
) -> pl.DataFrame:
    """Predictions with the columns that were wished for."""
    extra: list[pl.Series | pl.Expr] = []
    if outcome:
        extra.append(scored.outcome_column)
    if model_level:
        extra.append(scored.level_column)
    if snapshot:
        extra.append(pl.lit(version, dtype=pl.Int64).alias("snapshot"))
    return predicted.with_columns(extra) if extra else predicted


def _verified() -> VerifiedFiles:
    return VerifiedFiles(Settings.from_environment().home / "cache" / "verified")
