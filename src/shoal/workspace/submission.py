"""Predictions that nobody waits for, asked by the person at the machine: kept here, made by any server."""

import secrets

import polars as pl

from shoal.errors import Conflict, NotFound
from shoal.ledger import Predictions
from shoal.registry import Registry, SnapshotRecord, parse_reference
from shoal.requests.lookup_columns import key_columns
from shoal.requests.spec import FleetSchema, ServingSpec, schema_of
from shoal.serving.deferred import Wishes, new_prediction
from shoal.serving.deferred_options import DeferredOptions
from shoal.serving.frames import request_tensors, wanted_outputs
from shoal.serving.inputs import InputSchema
from shoal.serving.messages import InferenceRequest
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

    def submit(
        self, reference: str, rows: pl.DataFrame, wishes: Wishes, *, outcome: bool, model_level: bool, snapshot: bool
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
        outcome, model_level, snapshot : bool
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
            A key column is missing, or a wish cannot be used.
        TooLarge, Overloaded
            The request is too large, or too many wait.
        Conflict
            The idempotency key was used for another request.
        """
        wishes.require_usable()
        if wishes.sink is not None:
            self._connections.sinks.one(wishes.sink)
        name, chosen, pinned = self._meant(reference)
        spec = self._served.spec(name)
        schema = schema_of(self._storehouse.open(chosen))
        extra = _looked_up_by(schema, spec)
        taken = InputSchema(schema.keys, schema.features, extra).metadata()
        types = {column.name: column.type for column in (*schema.keys, *extra)}
        inputs = request_tensors(rows, taken, [column.name for column in schema.keys], types)
        usual = list(dict.fromkeys([*schema.outputs, *[added for rule in spec.rules for added in rule.set]]))
        outputs = wanted_outputs(usual, outcome=outcome, model_level=model_level, snapshot=snapshot)
        version = str(chosen.version) if pinned else None
        return self._accept(InferenceRequest(model=name, version=version, inputs=inputs, outputs=outputs), wishes)

    def _meant(self, reference: str) -> tuple[str, SnapshotRecord, bool]:
        """The fleet, a snapshot of it, and whether that one is to answer, or whatever is served by then."""
        parsed = parse_reference(reference)
        if not parsed.is_bare:
            return parsed.fleet, self._registry.resolve(reference), True
        desired = self._served.of(parsed.fleet)
        if desired.snapshot is None:
            raise NotFound(
                f"nothing is served as {reference!r}: alias {desired.alias!r} names no snapshot; promote one"
            )
        return parsed.fleet, desired.snapshot, False

    def _accept(self, request: InferenceRequest, wishes: Wishes) -> str:
        options, request_id = DeferredOptions(), secrets.token_hex(8)
        new = new_prediction(request, wishes, principal=self._actor, request_id=request_id, attempts=options.attempts)
        options.require_room(len(new.request), self._predictions.backlog())
        (accepted,) = self._predictions.accept([new])
        if isinstance(accepted, Conflict):
            raise accepted
        return accepted


def _looked_up_by(schema: FleetSchema, spec: ServingSpec) -> list[KeyColumn]:
    """What servers take of a fleet beside its own columns: those that its lookup goes by."""
    if spec.lookup is None:
        return []
    return [column for column in key_columns(spec.lookup, schema) if column.name not in schema.inputs]
