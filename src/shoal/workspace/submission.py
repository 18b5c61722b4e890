"""Predictions that nobody waits for, asked by the person at the machine: kept here, made by any server."""

import secrets
from collections.abc import Sequence

import polars as pl

from shoal.errors import Conflict, InvalidInput, NotFound, TooLarge, Unloaded
from shoal.fleet import Fleet
from shoal.ledger import NewPrediction, Predictions
from shoal.registry import Desired, Registry, SnapshotRecord, parse_reference
from shoal.requests.loading import load
from shoal.requests.lookup_columns import key_columns
from shoal.requests.spec import FleetSchema, ServingSpec, schema_of
from shoal.serving.deferred import Wishes, new_prediction
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.desired import unloaded
from shoal.serving.frames import request_tensors, wanted_outputs
from shoal.serving.inputs import InputSchema, given_rows
from shoal.serving.messages import InferenceRequest, Tensor
from shoal.serving.ruled import RuledScoring, scoring_of
from shoal.types import KeyColumn
from shoal.workspace.connections import Connections
from shoal.workspace.served import Served
from shoal.workspace.storehouse import Storehouse


class Submission:
    """Takes requests in.

    Parameters
    ----------
    registry : Registry
        What references mean.
    storehouse : Storehouse
        Opens the snapshot whose inputs the rows have to be.
    served : Served
        What fleets are served with.
    connections : Connections
        The sinks.
    predictions : Predictions
        Where requests are kept.
    actor : str
        In whose name.
    """

    def __init__(
        self,
        registry: Registry,
        storehouse: Storehouse,
        served: Served,
        connections: Connections,
        predictions: Predictions,
        actor: str,
    ) -> None:
        self._registry = registry
        self._storehouse = storehouse
        self._served = served
        self._connections = connections
        self._predictions = predictions
        self._actor = actor
        self._options = DeferredOptions()

    def submit(
        self,
        reference: str,
        rows: pl.DataFrame,
        wishes: Wishes,
        *,
        outcome: bool,
        reason: bool,
        model_level: bool,
        snapshot: bool,
    ) -> str:
        """Keep a request; when this returns it survives a power cut.

        Parameters
        ----------
        reference : str
            Who is asked; a bare name is what is served under it when the request is worked on.
        rows : polars.DataFrame
            Key columns and features.
        wishes : Wishes
            How it is to be handled.
        outcome, reason, model_level, snapshot : bool
            Whether the answer has a column of that name.

        Returns
        -------
        str
            The prediction's id.

        Raises
        ------
        NotFound
            There is no such fleet, alias, version or sink.
        InvalidInput
            An input is missing or does not fit, a check of the fleet refuses it, or a wish cannot be used.
        Unloaded
            The fleet was unloaded.
        TooLarge, Overloaded
            The request is too large or has too many rows, or too many wait.
        Conflict
            The idempotency key was used for another request.
        """
        wishes.require_usable()
        desired, chosen, pinned = self._meant(reference)
        spec, fleet = load(desired.spec), self._storehouse.open(chosen)
        schema = schema_of(fleet)
        taken, inputs = _asked(rows, schema, spec)
        usual = list(dict.fromkeys([*schema.outputs, *[added for rule in spec.rules for added in rule.set]]))
        outputs = wanted_outputs(usual, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot)
        version = str(chosen.version) if pinned else None
        new = self._new(InferenceRequest(model=desired.fleet, version=version, inputs=inputs, outputs=outputs), wishes)
        try:
            if wishes.sink is not None:
                self._connections.sinks.one(wishes.sink)
            if not desired.loaded:
                raise unloaded(desired.fleet)
            _require_answerable(inputs, taken, fleet, spec)
        except (InvalidInput, NotFound, TooLarge, Unloaded):
            known = None if wishes.idempotency_key is None else self._predictions.known(new)
            if known is None:
                raise
            return known.id
        return self._accept(new)

    def _meant(self, reference: str) -> tuple[Desired, SnapshotRecord, bool]:
        """How the fleet is served, a snapshot, and whether that one is to answer or whatever is served by then."""
        parsed = parse_reference(reference)
        desired = self._served.of(parsed.fleet)
        if not parsed.is_bare:
            return desired, self._registry.resolve(reference), True
        if desired.snapshot is None:
            raise NotFound(
                f"nothing is served as {reference!r}: alias {desired.alias!r} names no snapshot; promote one"
            )
        return desired, desired.snapshot, False

    def _new(self, request: InferenceRequest, wishes: Wishes) -> NewPrediction:
        request_id, attempts = secrets.token_hex(8), self._options.attempts
        return new_prediction(request, wishes, principal=self._actor, request_id=request_id, attempts=attempts)

    def _accept(self, new: NewPrediction) -> str:
        self._options.require_room(len(new.request), self._predictions.backlog())
        (accepted,) = self._predictions.accept([new])
        if isinstance(accepted, Conflict):
            raise accepted
        return accepted


def _asked(rows: pl.DataFrame, schema: FleetSchema, spec: ServingSpec) -> tuple[InputSchema, tuple[Tensor, ...]]:
    """What servers take of a fleet, and rows as that."""
    extra, brought = _looked_up_by(schema, spec), () if spec.lookup is None else spec.lookup.features
    taken = InputSchema(schema.keys, schema.features, extra, brought)
    types = {column.name: column.type for column in (*schema.keys, *extra)}
    return taken, request_tensors(rows, taken.metadata(), [column.name for column in schema.keys], types)


def _require_answerable(inputs: Sequence[Tensor], taken: InputSchema, fleet: Fleet, spec: ServingSpec) -> None:
    """Refuse what servers would, by what they check before they accept a request.

    Raises
    ------
    InvalidInput
        The inputs do not fit, or a check of the serving spec refuses them.
    TooLarge
        Too many rows.
    """
    if spec.limits.max_rows is not None:  # what a server allows at most is its own to say
        given_rows(inputs, spec.limits.max_rows)
    rows, scoring = taken.rows(inputs), scoring_of(fleet.table, taken, spec)
    if spec.lookup is None and isinstance(scoring, RuledScoring):
        scoring.require(rows)


def _looked_up_by(schema: FleetSchema, spec: ServingSpec) -> list[KeyColumn]:
    """What servers take of a fleet beside its own columns: those that its lookup goes by."""
    if spec.lookup is None:
        return []
    return [column for column in key_columns(spec.lookup, schema) if column.name not in schema.inputs]
