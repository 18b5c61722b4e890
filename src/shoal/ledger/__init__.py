"""The ledger: runs, shards, claims and outcomes; predictions that are kept."""

from shoal.ledger.ledger import MOST_ATTEMPTS, Ledger
from shoal.ledger.owners import is_gone, this_worker
from shoal.ledger.prediction_records import (
    Backlog,
    NewPrediction,
    PredictionClaim,
    PredictionKind,
    PredictionRecord,
    PredictionResult,
    Turn,
    Wanted,
)
from shoal.ledger.predictions import Predictions
from shoal.ledger.records import Reconciliation, RunRecord, RunTotals, ShardClaim, ShardPlan, ShardRecord

__all__ = [
    "MOST_ATTEMPTS",
    "Backlog",
    "Ledger",
    "NewPrediction",
    "PredictionClaim",
    "PredictionKind",
    "PredictionRecord",
    "PredictionResult",
    "Predictions",
    "Reconciliation",
    "RunRecord",
    "RunTotals",
    "ShardClaim",
    "ShardPlan",
    "ShardRecord",
    "Turn",
    "Wanted",
    "is_gone",
    "this_worker",
]
