"""Jobs: training and scoring, wired to what they need."""

from collections.abc import Callable, Mapping

import polars as pl

from shoal.batch.run import Scorer
from shoal.fleet import Fleet
from shoal.ledger import Ledger
from shoal.registry import AliasChange, SnapshotRecord
from shoal.requests.spec import LookupSpec
from shoal.settings import Settings
from shoal.training.train import Trainer
from shoal.types import KeyType


class Jobs:
    """Makes what trains and what scores.

    Parameters
    ----------
    ledger : Ledger
        Where runs are kept.
    settings : Settings
        Where they work, and in whose name.
    open_fleet : callable
        The fleet that a reference means.
    register, promote : callable
        As of :class:`shoal.Workspace`.
    history : callable
        All rows of a lookup's source.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        *,
        open_fleet: Callable[[str], Fleet],
        register: Callable[..., SnapshotRecord],
        promote: Callable[..., AliasChange],
        history: Callable[[LookupSpec, Mapping[str, KeyType]], pl.DataFrame],
    ) -> None:
        self.scorer = Scorer(ledger=ledger, open_fleet=open_fleet, actor=settings.actor, home=settings.home)
        self.trainer = Trainer(
            register=register,
            promote=promote,
            open_fleet=open_fleet,
            ledger=ledger,
            actor=settings.actor,
            home=settings.home,
            history=history,
        )
