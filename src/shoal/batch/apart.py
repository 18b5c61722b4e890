"""Work in a program of its own, which is ended when it takes more memory than the job may; such as a preprocess.

Polars cannot be stopped: a sort or a join that is cancelled goes on growing to its end. A process can.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import polars as pl
from polars.exceptions import PolarsError

from shoal import errors
from shoal.batch.memory import PieceBudget, anonymous_bytes
from shoal.batch.origin import Origins
from shoal.batch.source import FILE, ROW, filtered
from shoal.batch.spec import ScoreSpec
from shoal.errors import InvalidInput, ShoalError
from shoal.storage.decoding import decodable
from shoal.storage.files import storage_errors
from shoal.storage.query import apply_preprocess

Order = TypeVar("Order", bound=msgspec.Struct)

PREPROCESSED = "preprocessed"
"""What stands for the file in the ids of rows that a preprocess made anew."""

#: How often the program's memory is looked at.
LOOK_S = 0.003

#: Share of what is left of the bound above which Polars writes rows it must hold to disk; it needs more beside them.
SPILLING = 0.2

_ROW_GROUP_ROWS = 50_000


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """What to preprocess.

    Attributes
    ----------
    spec : ScoreSpec
        The job; has a ``preprocess``.
    origins : Origins
        The rows.
    target : str
        The Parquet file to write.
    """

    spec: ScoreSpec
    origins: Origins
    target: str


def preprocess_apart(work: Preprocessing, budget: PieceBudget) -> None:
    """Write the preprocessed rows, in another process.

    Raises
    ------
    InvalidSpec
        It takes more memory than ``memory`` allows, or the preprocess does not fit the columns.
    InvalidInput
        The preprocess failed.
    """
    if (work.spec.preprocess or "").strip().startswith("__main__:"):
        run(work)  # only this process has it
        return
    run_apart(work, run, Path(work.target).with_name("preprocess.json"), budget, what="field 'preprocess'")


def run_apart(work: Order, run: Callable[[Order], None], order: Path, budget: PieceBudget, *, what: str) -> None:
    """Do some work in another process; raises what it raises.

    Parameters
    ----------
    work : msgspec.Struct
        What to do.
    run : callable
        Does it; a function of a module of ours, beside the type of ``work``.
    order : Path
        A file to tell it by, in a folder of its own.
    budget : PieceBudget
        What both processes may take together.
    what : str
        What messages call it.

    Raises
    ------
    InvalidSpec
        It takes more memory than that.
    InvalidInput
        The process died.
    """
    with storage_errors(order):
        order.write_bytes(msgspec.json.encode(work))
    names = f"{type(work).__name__}, {run.__name__}"
    code = f"from shoal.batch.apart import serve; from {run.__module__} import {names}; serve({str(order)!r}, {names})"
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,  # it ends when this process does
        stdout=2,  # what a user's function prints must not mix with our own output
        env=_environment(order.parent, budget),
        process_group=0,  # Ctrl-C is for us; we stop it
    )
    try:
        _watch(process, budget)
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
    _require_success(process.returncode, _answer(order), what)


def _environment(folder: Path, budget: PieceBudget) -> dict[str, str]:
    """Our own, with our import path; and Polars is told to put on disk what does not fit, where it can."""
    paths = [str(Path(path).absolute()) for path in sys.path]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "POLARS_OOC_MEMORY_BUDGET_MB": str(max(1, int(SPILLING * budget.room_bytes() / 2**20))),
        "POLARS_OOC_SPILL_DIR": str(folder / "spilled"),
    }


def _watch(process: subprocess.Popen[bytes], budget: PieceBudget) -> None:
    while True:
        try:
            process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            budget.require_room(anonymous_bytes(process.pid))
        else:
            return


def _require_success(code: int, answer: Path, what: str) -> None:
    if code == 0:
        return
    if answer.exists():
        kind, words = msgspec.json.decode(answer.read_bytes(), type=tuple[str, str])
        raise getattr(errors, kind, ShoalError)(words)
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise InvalidInput(f"{what}: its process ended with {how}; its messages are on standard error")


def _answer(order: Path) -> Path:
    return order.with_suffix(".error.json")


def serve(order: str, kind: type[Order], run: Callable[[Order], None]) -> None:
    """Do what a file says and exit; an error of ours goes to a file beside it.

    Parameters
    ----------
    order : str
        Path of the work as JSON.
    kind : type
        What that is.
    run : callable
        Does it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        run(msgspec.json.decode(Path(order).read_bytes(), type=decodable(kind)))
    except ShoalError as error:
        _answer(Path(order)).write_bytes(msgspec.json.encode((type(error).__name__, str(error))))
        os._exit(1)
    os._exit(0)  # without waiting for whatever threads the user's function has started


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def run(work: Preprocessing) -> None:
    """Write the preprocessed rows, in this process.

    Raises
    ------
    InvalidSpec, InvalidInput
        The preprocess does not fit the input, or failed.
    """
    preprocess = work.spec.preprocess or ""
    with storage_errors(Path(work.target)):
        try:
            rows = apply_preprocess(preprocess, filtered(work.spec, work.origins.frame()))
            number_rows(rows).sink_parquet(work.target, row_group_size=_ROW_GROUP_ROWS, maintain_order=True)
        except PolarsError as error:
            names = ", ".join(sorted({origin.name for origin in work.origins.each}))
            raise InvalidInput(f"{names}: cannot be read as the job says: {error}") from error


def number_rows(frame: pl.LazyFrame, first: int = 0) -> pl.LazyFrame:
    """Rows that a preprocess made anew are numbered as they came out of it."""
    schema = frame.collect_schema()
    if FILE in schema and ROW in schema:
        return frame
    frame = frame.drop([name for name in (FILE, ROW) if name in schema])
    numbered = frame.with_row_index(ROW, first).with_columns(
        pl.lit(PREPROCESSED).alias(FILE), pl.col(ROW).cast(pl.Int64)
    )
    return numbered.select(FILE, ROW, pl.exclude(FILE, ROW))
