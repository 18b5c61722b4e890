"""The registry: fleets, snapshots, aliases, lineage, the audit and what servers share."""

from shoal.registry.audit import AuditCheck
from shoal.registry.deployment_records import Desired, ServerRecord, SourceRecord, StoreRecord
from shoal.registry.names import CHAMPION, Reference, check_name, parse_reference
from shoal.registry.records import (
    AliasChange,
    AliasRecord,
    AuditEntry,
    FleetRecord,
    Head,
    Lineage,
    ModelRecord,
    ModelVersion,
    Move,
    SnapshotRecord,
)
from shoal.registry.registry import Registry

__all__ = [
    "CHAMPION",
    "AliasChange",
    "AliasRecord",
    "AuditCheck",
    "AuditEntry",
    "Desired",
    "FleetRecord",
    "Head",
    "Lineage",
    "ModelRecord",
    "ModelVersion",
    "Move",
    "Reference",
    "Registry",
    "ServerRecord",
    "SnapshotRecord",
    "SourceRecord",
    "StoreRecord",
    "check_name",
    "parse_reference",
]
