"""The ledger: runs, shards, claims and outcomes."""

from shoal.ledger.ledger import MOST_ATTEMPTS, Ledger
from shoal.ledger.owners import is_gone, this_worker
from shoal.ledger.records import Reconciliation, RunRecord, RunTotals, ShardClaim, ShardPlan, ShardRecord

__all__ = [
    "MOST_ATTEMPTS",
    "Ledger",
    "Reconciliation",
    "RunRecord",
    "RunTotals",
    "ShardClaim",
    "ShardPlan",
    "ShardRecord",
    "is_gone",
    "this_worker",
]
