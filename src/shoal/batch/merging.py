"""One output file of all parts of a run, in the order of its input."""

from pathlib import Path

import polars as pl
from polars.exceptions import ComputeError

from shoal.batch.parts import flat_probabilities, metadata_of, output_frame, write_table
from shoal.batch.publishing import concatenate
from shoal.batch.source import FILE, ROW
from shoal.batch.worker import Work, answer
from shoal.errors import StorageError
from shoal.storage.files import storage_errors


def merge(work: Work, parts: list[Path]) -> Path:
    """Put a run's parts together in the staging folder; without parts the file has columns and no rows.

    Raises
    ------
    StorageError
        The disk is full, or a part is gone.
    """
    staging, form = work.destination.staging, work.spec.written_as
    merged = staging / f"merged.{form}"
    if form == "parquet":
        if not parts:
            with storage_errors(merged):
                write_table(_no_rows(work), merged, work.spec, work.fleet, run=work.run)
        elif len(parts) == 1:
            return parts[0]
        else:
            _merge_parquet(work, parts, merged)
        return merged
    if form == "csv":
        header = staging / "header.csv"
        with storage_errors(header):
            header.write_text(flat_probabilities(_no_rows(work), work.fleet).write_csv(include_header=True))
        parts = [header, *parts]
    concatenate(parts, merged)
    return merged


def _merge_parquet(work: Work, parts: list[Path], merged: Path) -> None:
    with storage_errors(merged):
        try:
            frame = pl.scan_parquet(parts, glob=False)
            frame.sink_parquet(merged, maintain_order=True, metadata=metadata_of(work.fleet, work.run))
        except ComputeError as error:  # what the Parquet writer makes of a full disk
            raise StorageError(f"{merged}: cannot be written: {error}") from error


def _no_rows(work: Work) -> pl.DataFrame:
    """The columns of the output."""
    rows = pl.DataFrame(schema={FILE: pl.String, ROW: pl.Int64, **work.types})
    return output_frame(work.spec, work.fleet, *answer(work, rows))
