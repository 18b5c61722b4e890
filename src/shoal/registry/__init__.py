"""Fleets, snapshots, aliases, lineage and audit."""
