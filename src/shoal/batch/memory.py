"""How much memory a job may take: what the process has now, and how many rows fit into the rest."""

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from shoal.errors import InvalidSpec

_PAGES = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")

#: Copies of a shard's columns that are alive at once: read, decompressed, scored, encoded for writing.
COPIES = 6

#: Below this many rows the cost of a shard is the shard, not its rows; above, files only get unwieldy.
FEWEST_ROWS, MOST_ROWS = 2_000, 500_000

#: What reading and writing take beside the rows: buffers of files, pools of threads.
OVERHEAD_BYTES = 64 * 2**20

#: Copies of a piece of text or rows that are alive at once while input is prepared. Short values are the worst: one
#: letter takes two bytes in a file and sixteen as a value.
PIECE_COPIES = 24

#: Pieces below this size cost more time than they save memory, above it they save no time.
SMALLEST_PIECE_BYTES, LARGEST_PIECE_BYTES = 2**18, 2**22

#: Preparing ends with an error when the memory comes so near to its bound.
ALARM = 0.9

#: A worker waits with its next shard while the process is above this share of its budget.
FULL = 0.8


def anonymous_bytes(process: int | None = None) -> int:
    """Anonymous memory of a process (RssAnon); files that are mapped, such as fleets, do not count.

    This process unless told. 0 where the system does not say.
    """
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def release() -> None:
    """Give memory that was freed back to the system, where an allocator keeps it for later."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # only the GNU C library has this
        ctypes.CDLL(None).malloc_trim(0)


def machine_bytes() -> int:
    """Physical memory of the machine."""
    pages, size = (os.sysconf(name) for name in _PAGES)
    return pages * size


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """A bound of the process's anonymous memory.

    Attributes
    ----------
    limit_bytes : int
        The bound.
    workers : int
        Shards that are worked on at once.
    shard_rows : int
        Rows of each.
    """

    limit_bytes: int
    workers: int
    shard_rows: int

    @property
    def exhausted(self) -> bool:
        """Whether another shard should wait."""
        return anonymous_bytes() > FULL * self.limit_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PieceBudget:
    """A bound of the anonymous memory while input is prepared piece by piece.

    Attributes
    ----------
    limit_bytes : int
        The bound.
    piece_bytes : int
        How much to work on at once.
    work : str
        What is done, for messages.
    advice : str
        What else than more memory would help.
    """

    limit_bytes: int
    piece_bytes: int
    work: str = "preparing the input"
    advice: str = "write the input as Parquet and without a preprocess that holds many rows at once"

    def room_bytes(self) -> int:
        """What may be taken beside what the process has."""
        return int(FULL * self.limit_bytes) - anonymous_bytes()

    def require_room(self, elsewhere_bytes: int = 0) -> None:
        """See that the bound holds.

        Parameters
        ----------
        elsewhere_bytes : int
            Anonymous memory of a process that works for this one.

        Raises
        ------
        InvalidSpec
            Little is left.
        """
        if anonymous_bytes() + elsewhere_bytes > FULL * self.limit_bytes:
            release()
        if anonymous_bytes() + elsewhere_bytes > ALARM * self.limit_bytes:
            raise InvalidSpec(
                f"field 'memory': {self.work} takes more than {self.limit_bytes / 2**20:.0f} MiB allow; "
                f"set more, or {self.advice}"
            )


def plan_pieces(limit_bytes: int | None) -> PieceBudget:
    """Fit the pieces in which input is prepared into a bound.

    Parameters
    ----------
    limit_bytes : int or None
        The bound; a quarter of the machine unless told.

    Raises
    ------
    InvalidSpec
        The bound leaves no room for the smallest piece.
    """
    limit = machine_bytes() // 4 if limit_bytes is None else limit_bytes
    piece = int((FULL * limit - anonymous_bytes() - OVERHEAD_BYTES) / PIECE_COPIES)
    if piece < SMALLEST_PIECE_BYTES:
        needed = (anonymous_bytes() + OVERHEAD_BYTES + PIECE_COPIES * SMALLEST_PIECE_BYTES) / FULL
        raise InvalidSpec(
            f"field 'memory': {limit / 2**20:.0f} MiB are too few to prepare the input; "
            f"set at least {needed / 2**20:.0f} MiB"
        )
    return PieceBudget(limit_bytes=limit, piece_bytes=min(piece, LARGEST_PIECE_BYTES))


def plan_budget(limit_bytes: int | None, row_bytes: float, shard_rows: int | None, workers: int) -> Budget:
    """Fit shards into a bound.

    Parameters
    ----------
    limit_bytes : int or None
        The bound; a quarter of the machine unless told.
    row_bytes : float
        Bytes that a row takes in memory, input and output.
    shard_rows : int or None
        Rows of a shard, where the user said it.
    workers : int
        Shards that should be worked on at once.

    Raises
    ------
    InvalidSpec
        The bound leaves no room for the smallest shard.
    """
    limit = machine_bytes() // 4 if limit_bytes is None else limit_bytes
    room = FULL * limit - anonymous_bytes() - OVERHEAD_BYTES
    for count in range(workers, 0, -1):
        rows = int(room / (count * COPIES * row_bytes))
        if rows >= (shard_rows or FEWEST_ROWS):
            return Budget(limit_bytes=limit, workers=count, shard_rows=shard_rows or min(rows, MOST_ROWS))
    needed = (anonymous_bytes() + OVERHEAD_BYTES + COPIES * row_bytes * (shard_rows or FEWEST_ROWS)) / FULL
    raise InvalidSpec(f"field 'memory': {limit / 2**20:.0f} MiB are too few; set at least {needed / 2**20:.0f} MiB")


def bytes_per_row(sample: pl.DataFrame, columns_added: int) -> float:
    """Bytes of a row in memory, from a sample of the input and the number of columns that scoring adds."""
    measured = sample.estimated_size() / max(sample.height, 1)
    return float(measured + 16 * columns_added + 32)
