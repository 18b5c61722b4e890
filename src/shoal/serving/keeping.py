"""What is kept of a fleet's requests: the prediction log, whose files nobody waits for, and durable results."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shoal.errors import DeadlineExceeded, InvalidInput, StorageError, Unavailable
from shoal.ledger import Predictions
from shoal.requests.spec import ServingSpec
from shoal.serving.contact import Contact
from shoal.serving.durable import DurableStore
from shoal.serving.inputs import InputSchema
from shoal.serving.log import LogStatistics, PredictionLog
from shoal.serving.log_retention import LogRetention
from shoal.serving.logged import LoggedRequest, LogSchema
from shoal.serving.messages import RequestContext
from shoal.serving.outputs import OutputSchema
from shoal.serving.rows import Rows
from shoal.serving.scoring import Part

_PERHAPS_KEPT: Final = "and nobody knows whether the result was kept, so it is not answered; try again"

_log = logging.getLogger("shoal.serving")


class Keepers:
    """The prediction log and the durable store of a process; each is there once a fleet wants it. Safe for threads.

    Parameters
    ----------
    folder : Path
        Where the prediction log goes.
    predictions : Predictions
        Where durable results are kept.

    Attributes
    ----------
    contact : Contact
        Whether the registry answers, which is where durable results are kept as well.
    retention : LogRetention
        What removes old days of the log.
    """

    def __init__(self, folder: Path, predictions: Predictions) -> None:
        self._folder = folder
        self._predictions = predictions
        self._making = threading.Lock()
        self._log: PredictionLog | None = None
        self._store: DurableStore | None = None
        self.contact = Contact()
        self.retention = LogRetention(folder)

    def log(self) -> PredictionLog:
        """The prediction log of the process."""
        with self._making:
            if self._log is None:
                self._log = PredictionLog(self._folder)
            return self._log

    def store(self) -> DurableStore:
        """The durable store of the process."""
        with self._making:
            if self._store is None:
                self._store = DurableStore(self._predictions)
            return self._store

    def statistics(self) -> LogStatistics | None:
        """What the prediction log has done; None where no fleet ever had one."""
        return None if self._log is None else self._log.statistics()

    def close(self, timeout_s: float) -> None:
        """Write and commit what was taken on, and end.

        Parameters
        ----------
        timeout_s : float
            How long to wait for that, in seconds.
        """
        until_s = time.monotonic() + timeout_s
        self.retention.close()
        if self._store is not None:
            self._store.close(timeout_s)
        if self._log is not None:
            self._log.close(max(0.0, until_s - time.monotonic()))


class Keeping:
    """What is kept of the requests of one snapshot of a fleet.

    Parameters
    ----------
    fleet : str
        Its name.
    version : int
        The snapshot.
    spec : ServingSpec
        What is to be kept, and how long.
    inputs, outputs : InputSchema, OutputSchema
        The fleet's.
    keepers : Keepers
        Where it goes.

    Raises
    ------
    InvalidSpec
        The log is to have columns that the fleet does not have.
    """

    def __init__(
        self,
        fleet: str,
        version: int,
        spec: ServingSpec,
        inputs: InputSchema,
        outputs: OutputSchema,
        keepers: Keepers,
    ) -> None:
        self._schema = LogSchema(fleet, version, inputs, outputs)
        self._log: PredictionLog | None = None
        self._sample = 0.0
        if spec.log is not None and spec.log.sample:
            self._schema = LogSchema(
                fleet, version, inputs, outputs, columns=spec.log.columns, file_s=spec.log.file_s
            )  # fmt: skip
            self._log, self._sample = keepers.log(), spec.log.sample
        self._store = keepers.store() if spec.store == "durable" else None
        self._contact = keepers.contact
        self._sink, self._keep_s = spec.sink, spec.keep_s

    @property
    def is_durable(self) -> bool:
        """Whether results are committed before they are answered."""
        return self._store is not None

    def require(self, context: RequestContext) -> None:
        """Refuse a request whose durable result would be kept under another id than its caller gave.

        Raises
        ------
        InvalidInput
            Says what an id may be.
        """
        if self._store is not None and context.id_replaced:
            raise InvalidInput(
                "the result is durable, and cannot be kept under this X-Request-Id: give 1 to 128 letters, digits and "
                "._:/+=- or leave it out"
            )

    async def commit(
        self,
        model: str,
        context: RequestContext,
        rows: Rows,
        parts: Sequence[Part],
        *,
        started_ns: int,
        deadline_s: float | None,
        is_own: bool,
    ) -> None:
        """Commit a result that is to be durable, or hand it to whoever does; it may be answered when this returns.

        Parameters
        ----------
        model : str
            The address as the request named it.
        context : RequestContext
            Who asks, and with which request.
        rows, parts : Rows, sequence of Part
            The inputs as they were scored, and what was found for them.
        started_ns : int
            Point of ``time.perf_counter_ns()`` when the request came.
        deadline_s : float or None
            Point of ``time.monotonic()`` until which there is time.
        is_own : bool
            See :class:`LoggedRequest`.

        Raises
        ------
        Unavailable
            It could not be committed, or the registry is away.
        DeadlineExceeded
            It may be committed yet, but too late.
        """
        if self._store is None:
            return
        logged = self._logged(model, context, rows, parts, started_ns, is_own)
        if context.keep is not None:
            context.keep(self._store.prediction(logged, sink=self._sink, keep_s=self._keep_s))
            return
        self._contact.require()
        try:
            async with asyncio.timeout_at(None if deadline_s is None else _loop_time(deadline_s)):
                committed = self._store.commit(logged, sink=self._sink, keep_s=self._keep_s)
                await self._contact.guard(committed, _PERHAPS_KEPT)
        except TimeoutError as error:
            raise DeadlineExceeded("the result was not committed in time; it may be yet, ask again") from error
        except StorageError as error:
            _log.warning("request %s: its result could not be committed: %s", context.request_id, error)
            raise Unavailable("the result could not be committed, so it is not answered; try again") from error

    def offer(
        self,
        model: str,
        context: RequestContext,
        rows: Rows,
        parts: Sequence[Part],
        *,
        started_ns: int,
        is_own: bool,
    ) -> None:
        """Offer a request that is about to be answered to the prediction log. Parameters as of :meth:`commit`."""
        log = self._log
        if log is not None and (self._sample >= 1.0 or random.random() < self._sample):  # noqa: S311
            log.offer(self._logged(model, context, rows, parts, started_ns, is_own))

    def _logged(
        self,
        model: str,
        context: RequestContext,
        rows: Rows,
        parts: Sequence[Part],
        started_ns: int,
        is_own: bool,
    ) -> LoggedRequest:
        return LoggedRequest(
            schema=self._schema,
            request_id=context.request_id,
            principal=context.principal,
            model=model,
            rows=rows,
            parts=parts,
            at_s=time.time(),
            latency_ms=(time.perf_counter_ns() - started_ns) / 1e6,
            is_own=is_own,
        )


def _loop_time(deadline_s: float) -> float:
    return asyncio.get_running_loop().time() + deadline_s - time.monotonic()
