"""The predictions of a workspace: those of a fleet are changed only if there is such a fleet."""

import datetime as dt

from shoal.ledger import Predictions
from shoal.registry import Registry
from shoal.storage.sql import Database


class FleetPredictions(Predictions):
    """Predictions as the ledger keeps them, by fleets that the registry knows; fleets are never removed from it.

    Parameters
    ----------
    database : Database
        Migrated.
    registry : Registry
        Which fleets there are.
    """

    def __init__(self, database: Database, registry: Registry) -> None:
        super().__init__(database)
        self._registry = registry

    def purge(self, fleet: str, *, before: dt.datetime) -> int:
        """Forget the durable results of a fleet that are older; see :meth:`Predictions.purge`.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        self._registry.fleet(fleet)
        return super().purge(fleet, before=before)

    def replay_failed(self, *, fleet: str | None = None, more_attempts: int = 5) -> int:
        """Let all failed predictions, or those of one fleet, wait again; see :meth:`Predictions.replay_failed`.

        Raises
        ------
        NotFound
            There is no such fleet.
        """
        if fleet is not None:
            self._registry.fleet(fleet)
        return super().replay_failed(fleet=fleet, more_attempts=more_attempts)
