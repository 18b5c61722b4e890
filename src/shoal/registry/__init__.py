"""The registry: fleets, snapshots, aliases, lineage and the audit."""

from shoal.registry.audit import AuditCheck
from shoal.registry.names import CHAMPION, Reference, check_name, parse_reference
from shoal.registry.records import (
    AliasChange,
    AliasRecord,
    AuditEntry,
    FleetRecord,
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
    "FleetRecord",
    "Lineage",
    "ModelRecord",
    "ModelVersion",
    "Move",
    "Reference",
    "Registry",
    "SnapshotRecord",
    "check_name",
    "parse_reference",
]
