"""Planning a run: which snapshot, which files, which shards, and what earlier runs of the job have left."""

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from shoal.batch import preparation
from shoal.batch.columns import NUMBER_KIND, TEXT_KIND
from shoal.batch.definition import Definition, Pinned
from shoal.batch.leaving import take_on, waiting_shards
from shoal.batch.leftovers import OWNER, remove, unneeded_preparations
from shoal.batch.memory import Budget, bytes_per_row, plan_budget
from shoal.batch.source import FILE, ROW, Slice, columns_of, common_types, cut, pin, read_rows, slices_of
from shoal.batch.spec import KIND, PINNED, ROW_IDS, ScoreSpec
from shoal.errors import InvalidInput, InvalidSpec, ShoalError, StorageError
from shoal.fleet import Fleet
from shoal.ledger import Ledger, RunRecord, ShardPlan, this_worker
from shoal.requests.lookup_columns import key_columns
from shoal.requests.readers import FindSource
from shoal.requests.spec import ServingSpec, schema_of
from shoal.storage.files import exclusive, storage_errors
from shoal.types import FeatureKind, InputFile, Json, KeyColumn

SAMPLE_ROWS = 2_000
SHARD_WORKERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadColumns:
    """Which input columns are read, after renaming.

    Attributes
    ----------
    all : tuple of str
        Keys, features, carried columns, and those of the template of partitions.
    unshown : tuple of str
        Those that only the template needs.
    """

    all: tuple[str, ...]
    unshown: tuple[str, ...]


def read_columns(spec: ScoreSpec, fleet: Fleet, definition: Definition) -> ReadColumns:
    """Work out which columns a job reads.

    Raises
    ------
    InvalidSpec
        The fleet wants a column whose name is a row id's.
    """
    taken = ROW_IDS.intersection(f.name for f in fleet.features)
    if taken:
        raise InvalidSpec(f"feature {sorted(taken)[0]!r} of {fleet.name} is called like Shoal's row ids: rename it")
    read = [c.name for c in fleet.keys] + [f.name for f in fleet.features] + list(definition.columns)
    made = {"prediction", "score", "is_anomaly", "outcome", "reason", "model_level", "snapshot", FILE, ROW}
    template = spec.template.columns if spec.template else ()
    kept = {c.name for c in fleet.keys} | set(spec.carry) | made | set(definition.added)
    unshown = tuple(name for name in template if name not in kept)
    all_read = dict.fromkeys([*read, *spec.carry, *unshown])
    return ReadColumns(all=tuple(name for name in all_read if name not in definition.brought), unshown=unshown)


class Planner:
    """Plans runs of score jobs.

    Parameters
    ----------
    ledger : Ledger
        Where runs are kept.
    home : Path
        The workspace's folder; prepared input lies in ``runs`` below it.
    find_source : callable
        Finds a source of features by name.
    checkpoint : callable
        Called with the name of each step that is about to be taken.
    """

    def __init__(self, ledger: Ledger, home: Path, find_source: FindSource, checkpoint: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._find_source = find_source
        self._lookups = home / "cache" / "lookups"
        self._checkpoint = checkpoint
        self._folder = home / "runs"
        self._locks = home / "locks"

    def plan(self, spec: ScoreSpec, fleet: Fleet, serving: ServingSpec | None, *, actor: str) -> RunRecord:
        """Pin the input and the serving spec, and add the run with its shards to the ledger.

        Raises
        ------
        InvalidInput
            There is no input, it cannot be read, or lacks a column.
        InvalidSpec
            The job does not fit the columns, or too little memory is allowed.
        """
        remove(unneeded_preparations(self._ledger, self._folder))
        files = pin(spec)
        lookup = None if serving is None else serving.lookup
        looked_up_by = () if lookup is None else key_columns(lookup, schema_of(fleet))
        prepared, source_rows = self._prepare(spec, _declared(spec, fleet, looked_up_by), files)
        tables = [(f.path, f.rows or 0) for f in files] if prepared is None else [(str(prepared), _rows_in(prepared))]
        paths = [path for path, _ in tables]
        pinned = None
        if serving is not None:
            pinned = Pinned.of(serving, columns_of(spec, paths, prepared=prepared is not None), self._find_source)
        definition = self.definition(spec, fleet, pinned)
        types = common_types(spec, paths, read_columns(spec, fleet, definition).all, prepared=prepared is not None)
        definition.prepare(types)
        budget = budget_of(spec, fleet, definition, tables, prepared=prepared is not None)
        shards = cut(tables, budget.shard_rows) or [[Slice(path=tables[0][0], offset=0, rows=0)]]
        sources = _sources(shards, prepared=prepared is not None, spread=source_rows)
        with exclusive(self._locks / "planning"):  # nobody else takes on the same left rows meanwhile
            left = take_on(self._ledger, spec, files)
            return self._ledger.create_run(
                kind=KIND,
                fleet=fleet.name,
                version=fleet.version,
                spec=cast("dict[str, Json]", spec.document()) | ({} if pinned is None else {PINNED: pinned.document()}),
                inputs=[*files, *left.files],
                shards=[ShardPlan(number=i, source=source) for i, source in enumerate([*sources, *left.sources])],
                actor=actor,
            )

    def definition(self, spec: ScoreSpec, fleet: Fleet, pinned: Pinned | None) -> Definition:
        """What a run does with rows beside scoring them; raises as :class:`Definition` does."""
        return Definition(pinned, fleet, spec, find_source=self._find_source, cache=self._lookups)

    def again(self, run: RunRecord, *, actor: str) -> RunRecord:
        """A new run over the same pinned input and shards, that takes the place of one that failed."""
        return self._ledger.create_run(
            kind=KIND,
            fleet=run.fleet,
            version=run.version,
            spec=run.spec,
            inputs=self._ledger.inputs(run.id),
            shards=[ShardPlan(number=shard.number, source=shard.source) for shard in self._ledger.shards(run.id)],
            actor=actor,
            resumes=run.id,
        )

    def _prepare(
        self, spec: ScoreSpec, declared: Mapping[str, str], files: Sequence[InputFile]
    ) -> tuple[Path | None, int | None]:
        if not preparation.needed(spec, files):
            return None, None
        folder = self._folder / f"prepared-{secrets.token_hex(6)}"
        with storage_errors(folder):
            folder.mkdir(parents=True)
            (folder / OWNER).write_text(this_worker())
        target = folder / "rows.parquet"
        try:
            rows = preparation.prepare(spec, files, declared, target)
        except ShoalError:
            remove([folder])
            raise
        self._checkpoint("prepared")
        return target, rows if spec.preprocess is not None else None

    def clear_prepared(self, run_id: str) -> None:
        """Remove the prepared input of a run, unless it has left rows to the next one."""
        shards = self._ledger.shards(run_id)
        if waiting_shards(shards):
            return
        for path in {
            piece.path for shard in shards if shard.source.get("prepared") for piece in slices_of(shard.source)
        }:
            shutil.rmtree(Path(path).parent, ignore_errors=True)


def budget_of(
    spec: ScoreSpec, fleet: Fleet, definition: Definition, tables: Sequence[tuple[str, int]], *, prepared: bool
) -> Budget:
    """How many rows a shard may have, from a sample of the input; also refuses input that lacks columns."""
    columns = read_columns(spec, fleet, definition).all
    sample = _sample(spec, tables, columns, prepared=prepared)
    fleet.score(definition.without(sample.head(10)))
    added = 8 + len(fleet.labels)
    row = bytes_per_row(sample, added) if sample.height else 64.0 * (len(columns) + added)
    row += definition.row_bytes
    workers = min(SHARD_WORKERS, spec.threads or SHARD_WORKERS)
    return plan_budget(spec.memory_bytes, row, spec.shard_rows, workers)


def _sample(
    spec: ScoreSpec, tables: Sequence[tuple[str, int]], columns: Sequence[str], *, prepared: bool
) -> pl.DataFrame:
    """The first rows of the first file that can be read: one that cannot is the matter of its shards."""
    for number, (path, rows) in enumerate(tables, start=1):
        first = Slice(path=path, offset=0, rows=min(rows, SAMPLE_ROWS))
        try:
            sample = read_rows(spec, [first], columns, prepared=prepared)
            return sample if sample.height else _unfiltered(path, columns)
        except (StorageError, PolarsError):
            if number == len(tables):
                raise
    return pl.DataFrame()


def _unfiltered(path: str, columns: Sequence[str]) -> pl.DataFrame:
    """A sample for the size of rows where the filter leaves none at the beginning."""
    head = pl.scan_parquet(path, glob=False).head(SAMPLE_ROWS).collect()
    ids = [pl.lit(path).alias(FILE), pl.lit(0, dtype=pl.Int64).alias(ROW)]
    return head.with_columns(ids) if set(columns) <= set(head.columns) else head.clear()


def _declared(spec: ScoreSpec, fleet: Fleet, looked_up_by: Sequence[KeyColumn]) -> dict[str, str]:
    """What the fleet says of the input's columns, by their names before renaming."""
    kinds = {f.name: NUMBER_KIND if f.kind is FeatureKind.NUMERIC else TEXT_KIND for f in fleet.features}
    kinds |= {column.name: str(column.type) for column in (*looked_up_by, *fleet.keys)}
    original = {new: old for old, new in spec.rename.items()}
    return {original.get(name, name): kind for name, kind in kinds.items()}


def _sources(shards: Sequence[Sequence[Slice]], *, prepared: bool, spread: int | None) -> list[dict[str, Json]]:
    """Shards as the ledger keeps them.

    Rows that a preprocess made have no source rows of their own: those of the whole input are spread over the shards,
    so that the run's sum is right.
    """
    sources: list[dict[str, Json]] = []
    for number, slices in enumerate(shards):
        source: dict[str, Json] = {"slices": [piece.document() for piece in slices], "prepared": prepared}
        if spread is not None:
            source["source_rows"] = spread * (number + 1) // len(shards) - spread * number // len(shards)
        sources.append(source)
    return sources


def _rows_in(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: the prepared input cannot be read ({error}); start a new run") from error
