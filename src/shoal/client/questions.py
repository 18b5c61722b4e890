"""Questions to the management API: their paths, and how answers are read."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec

from shoal.client import records
from shoal.client.exchange import Answer, Door, Question, asking, get, made_key, part, reading, send
from shoal.client.records import converted
from shoal.jobs.states import RunState
from shoal.ledger import RunRecord, RunTotals
from shoal.registry import (
    AliasChange,
    AliasRecord,
    AuditCheck,
    AuditEntry,
    Desired,
    FleetRecord,
    Lineage,
    ModelVersion,
    SnapshotRecord,
    StoreRecord,
)
from shoal.registry.serving import KEEP, Keep
from shoal.requests.loading import ADVICE
from shoal.requests.loading import load as load_serving
from shoal.requests.sources import Source
from shoal.requests.spec import ServingSpec
from shoal.security.api_keys import ApiKeyRecord, IssuedKey, require_life, require_overlap
from shoal.security.permissions import Role, role_of
from shoal.serving.services import Service, require_texts
from shoal.serving.sinks import SinkSpec
from shoal.storage import filters
from shoal.storage.documents import read_document
from shoal.types import InputFile, Json

API: Final = "/api/v1"
MOST: Final = filters.MOST
"""Most that a listing holds."""
Named = TypeVar("Named")


class _Pinned(msgspec.Struct):
    inputs: list[InputFile]


def services(name: str | None, tag: str | None, category: str | None, key: str | None) -> Question[list[Service]]:
    """Which servers hold which fleets; every door knows."""
    require_texts(name=name, tag=tag, category=category, key=key)
    return get(f"{API}/services", reading(list[Service]), name=name, tag=tag, category=category, key=key)


def fleets(tag: str | None, category: str | None) -> Question[list[FleetRecord]]:
    """All fleets."""
    return _get(f"{API}/fleets", reading(list[FleetRecord]), tag=tag, category=category)


def fleet(name: str) -> Question[FleetRecord]:
    """One fleet."""
    return _get(_fleet(name), reading(FleetRecord))


def describe(
    name: str, owner: str | None, description: str | None, category: str | None, tags: Iterable[str] | None
) -> Question[FleetRecord]:
    """Change what is said about a fleet."""
    body: dict[str, Json] = {
        "owner": owner, "description": description, "category": category, "tags": None if tags is None else list(tags),
    }  # fmt: skip
    return _send("PUT", _fleet(name), body, reading(FleetRecord), repeatable=True)


def snapshots(name: str) -> Question[list[SnapshotRecord]]:
    """A fleet's snapshots."""
    return _get(f"{_fleet(name)}/snapshots", reading(list[SnapshotRecord]))


def snapshot(name: str, version: int) -> Question[SnapshotRecord]:
    """One snapshot."""
    return _get(f"{_fleet(name)}/snapshots/{version}", reading(SnapshotRecord))


def lineage(name: str, version: int) -> Question[Lineage]:
    """Where a snapshot comes from."""
    return _get(f"{_fleet(name)}/snapshots/{version}", records.part_of("lineage", Lineage, json=("parameters",)))


def alias_history(name: str, alias: str | None) -> Question[list[AliasChange]]:
    """How aliases moved."""
    return _get(f"{_fleet(name)}/history", reading(list[AliasChange]), alias=alias, limit=MOST)


def aliases(name: str) -> Question[list[AliasRecord]]:
    """A fleet's aliases."""
    return _get(f"{_fleet(name)}/aliases", reading(list[AliasRecord]))


def model_history(name: str, key: str) -> Question[list[ModelVersion]]:
    """The snapshots that brought a model of a key."""
    return _get(f"{_fleet(name)}/models/history", reading(list[ModelVersion]), key=key)


def promote(
    name: str, version: int, alias: str, expected: int | None, reason: str, idempotency_key: str | None
) -> Question[AliasChange]:
    """Make an alias name a version; with its key it may be sent twice and is done once."""
    body: dict[str, Json] = {"version": version, "alias": alias, "expected": expected, "reason": reason}
    return _send("POST", f"{_fleet(name)}/promote", body, reading(AliasChange), key=idempotency_key or made_key())


def rollback(
    name: str, alias: str, expected: int | None, reason: str, idempotency_key: str | None
) -> Question[AliasChange]:
    """Make an alias name what it named before; with its key it may be sent twice and is done once."""
    body: dict[str, Json] = {"alias": alias, "expected": expected, "reason": reason}
    return _send("POST", f"{_fleet(name)}/rollback", body, reading(AliasChange), key=idempotency_key or made_key())


def every_serving() -> Question[list[Desired]]:
    """What servers are told about each fleet."""
    return _get(f"{API}/serving", records.many(Desired, json=("spec",)))


def desired(name: str) -> Question[Desired]:
    """What servers are told about a fleet."""
    return _get(f"{API}/serving/{part(name)}", records.one(Desired, json=("spec",)))


def serving(name: str) -> Question[ServingSpec]:
    """What a fleet is served with."""
    return _get(f"{API}/serving/{part(name)}", _spec)


def set_serving(
    name: str,
    spec: ServingSpec | Mapping[str, object] | str | Path | None,
    *,
    loaded: bool | None,
    alias: str | None,
    pinned: int | Keep | None,
) -> Question[ServingSpec]:
    """Say how a fleet is served, and with what; what is None, or :data:`KEEP`, stays."""
    values = read_document(Path(spec), ADVICE) if isinstance(spec, str | Path) else spec
    written = values.document() if isinstance(values, ServingSpec) else cast("Mapping[str, Json] | None", values)
    given: dict[str, Json | None] = {"spec": written, "loaded": loaded, "alias": alias}
    wish: dict[str, Json | None] = {word: value for word, value in given.items() if value is not None}
    if pinned != KEEP:
        wish["pinned"] = pinned
    return _send("PUT", f"{API}/serving/{part(name)}", wish, _spec, repeatable=True)


def set_served(name: str, wish: Mapping[str, Json]) -> Question[Desired]:
    """Say which snapshot of a fleet is served, and whether any is: ``loaded``, ``alias``, ``pinned``."""
    read = records.one(Desired, json=("spec",))
    return _send("PUT", f"{API}/serving/{part(name)}", wish, read, repeatable=True)


def sources() -> Question[dict[str, Source]]:
    """All sources."""
    return _get(f"{API}/sources", _named(cast("type[Source]", Source)))


def source(name: str) -> Question[Source]:
    """One source."""
    return _get(f"{API}/sources/{part(name)}", _definition(cast("type[Source]", Source)))


def sinks() -> Question[dict[str, SinkSpec]]:
    """All sinks."""
    return _get(f"{API}/sinks", _named(cast("type[SinkSpec]", SinkSpec)))


def sink(name: str) -> Question[SinkSpec]:
    """One sink."""
    return _get(f"{API}/sinks/{part(name)}", _definition(cast("type[SinkSpec]", SinkSpec)))


def stores() -> Question[list[StoreRecord]]:
    """Categories that have a folder of their own."""
    return _get(f"{API}/stores", reading(list[StoreRecord]))


def keys() -> Question[list[ApiKeyRecord]]:
    """All API keys."""
    return _get(f"{API}/keys", records.api_keys)


def create_key(name: str, role: Role | str, expires_s: float | None) -> Question[IssuedKey]:
    """Make an API key."""
    require_life(expires_s)  # JSON has no infinity: it would become null, which is for ever
    body: dict[str, Json] = {"name": name, "role": role_of(role), "expires_s": expires_s}
    return _send("POST", f"{API}/keys", body, records.issued_key)


def revoke_key(key_id: str) -> Question[ApiKeyRecord]:
    """Take an API key no more."""
    return _send("POST", f"{API}/keys/{part(key_id)}/revoke", None, records.revoked_key, repeatable=True)


def rotate_key(key_id: str, overlap_s: float, expires_s: float | None) -> Question[IssuedKey]:
    """Replace an API key."""
    require_life(expires_s)
    require_overlap(overlap_s)
    body: dict[str, Json] = {"overlap_s": overlap_s, "expires_s": expires_s}
    return _send("POST", f"{API}/keys/{part(key_id)}/rotate", body, records.issued_key)


def audit(object: str | None, limit: int) -> Question[list[AuditEntry]]:  # noqa: A002
    """The newest changes."""
    read, limit = records.many(AuditEntry, json=("before", "after")), filters.limit(limit, most=MOST)
    return _get(f"{API}/audit", read, object=object, limit=limit)


def verify_audit(noted: str | None) -> Question[AuditCheck]:
    """Have the audit's digests recomputed."""
    return _get(f"{API}/audit/check", records.one(AuditCheck), noted=noted)


def runs(state: RunState | None, fleet: str | None, kind: str | None, limit: int) -> Question[list[RunRecord]]:
    """The newest runs."""
    read = records.many(RunRecord, json=("spec",))
    state, limit = filters.word("state", RunState, state), filters.limit(limit, most=MOST)
    return _get(f"{API}/runs", read, state=state, fleet=fleet, kind=kind, limit=limit)


def run(run_id: str) -> Question[RunRecord]:
    """One run."""
    return _get(_run(run_id), records.one(RunRecord, json=("spec",)))


def inputs(run_id: str) -> Question[list[InputFile]]:
    """The files that a run has pinned."""
    read = reading(_Pinned)
    return _get(_run(run_id), lambda content: read(content).inputs)


def totals(run_id: str) -> Question[RunTotals]:
    """What a run has done so far."""
    return _get(_run(run_id), records.part_of("totals", RunTotals))


def _get(path: str, read: Callable[[bytes], Answer], **query: str | int | None) -> Question[Answer]:
    return get(path + asking(query), read, door=Door.MANAGEMENT)


def _send(
    method: str,
    path: str,
    body: Mapping[str, Json] | None,
    read: Callable[[bytes], Answer],
    *,
    repeatable: bool = False,
    key: str | None = None,
) -> Question[Answer]:
    return send(method, path, body, read, door=Door.MANAGEMENT, repeatable=repeatable, key=key)


def _fleet(name: str) -> str:
    return f"{API}/fleets/{part(name)}"


def _run(run_id: str) -> str:
    return f"{API}/runs/{part(run_id)}"


def _spec(content: bytes) -> ServingSpec:
    return load_serving(records.one(Desired, json=("spec",))(content).spec)


def _named(kind: type[Named]) -> Callable[[bytes], dict[str, Named]]:
    table = reading(list[dict[str, object]])
    return lambda content: {str(told.pop("name")): converted(told, kind) for told in table(content)}


def _definition(kind: type[Named]) -> Callable[[bytes], Named]:
    read = reading(dict[str, object])

    def definition(content: bytes) -> Named:
        told = read(content)
        told.pop("name", None)
        return converted(told, kind)

    return definition
