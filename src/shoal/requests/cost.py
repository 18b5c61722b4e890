"""What calls cost, learnt from those that were made."""

#: Up to this many rows, a call's time counts as what any call costs.
FEW_ROWS = 32

#: From this many rows on, threads may share a call, and the calling thread's own time says little.
SHARED_ROWS = 4096

#: How much the newest measurement counts.
WEIGHT = 0.1

#: Fewest and most rows that are ever put into a call.
LEAST_ROWS, MOST_ROWS = 256, 65_536


class Cost:
    """A running estimate of what a call takes: so much for any, and so much per row.

    Tell it the CPU time of the calling thread where that is the whole of it: a call that was kept waiting is no dearer.

    Attributes
    ----------
    call_s, row_s : float
        Seconds per call and per row.
    """

    __slots__ = ("call_s", "row_s")

    def __init__(self, call_s: float = 3e-4, row_s: float = 3e-6) -> None:
        self.call_s = call_s
        self.row_s = row_s

    def of(self, rows: int) -> float:
        """What a call with so many rows is expected to take, in seconds."""
        return self.call_s + rows * self.row_s

    def rows_in(self, seconds: float) -> int:
        """How many rows a call of that length can have."""
        return int(min(max((seconds - self.call_s) / self.row_s, LEAST_ROWS), MOST_ROWS))

    def learn(self, rows: int, *, spent_s: float) -> None:
        """Take a call into account."""
        if rows <= FEW_ROWS:
            self.call_s += WEIGHT * (max(spent_s - rows * self.row_s, 1e-6) - self.call_s)
        else:
            self.row_s += WEIGHT * (max(spent_s - self.call_s, 1e-9) / rows - self.row_s)
