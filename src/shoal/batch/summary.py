"""What a run came to, as its caller learns it."""

from dataclasses import dataclass
from pathlib import Path

from shoal.jobs.states import RunState
from shoal.ledger import Reconciliation


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSummary:
    """What a run came to.

    Attributes
    ----------
    run : str
        Its id.
    fleet : str
        The fleet.
    version : int
        The snapshot that it pinned.
    state : RunState
        ``succeeded``.
    output : Path
        Where the predictions are.
    errors : Path or None
        Where the rows are listed that could not be scored; None when there are none.
    ledger : Reconciliation
        Rows read, rows after preprocessing, and what became of each.
    seconds : float
        How long this process worked on it.
    """

    run: str
    fleet: str
    version: int
    state: RunState
    output: Path
    errors: Path | None
    ledger: Reconciliation
    seconds: float
