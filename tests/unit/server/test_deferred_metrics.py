"""What waits shows in the metrics once, however many workers look; what was done adds up."""

from shoal.ledger.prediction_records import Backlog
from shoal.server.metrics import DeferredCounters
from shoal.serving.deferred_options import DeferredCounts
from shoal.telemetry.metrics import Metrics, exposition, merge


def told(*workers):
    text, _ = exposition(merge([metrics.dump() for metrics in workers]))
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}, text.decode()


def test_workers_look_at_one_queue():
    workers = [Metrics(), Metrics()]
    one, two = map(DeferredCounters, workers)
    one.take(DeferredCounts(accepted=7, done=2, failed=1, expired=3, retried=4), Backlog(waiting=5, claimed=2), 1.5)
    two.take(DeferredCounts(accepted=1, done=2), Backlog(waiting=4, claimed=3, dead=9), 1.0)
    one.take(DeferredCounts(accepted=8, done=4, failed=1, expired=3, retried=4), Backlog(waiting=5, claimed=2), 2.5)
    seen, text = told(*workers)
    assert seen == {
        "shoal_predictions_accepted_total": 9,
        "shoal_predictions_done_total": 6,
        "shoal_predictions_failed_total": 1,
        "shoal_predictions_expired_total": 3,
        "shoal_predictions_retried_total": 4,
        "shoal_predictions_waiting": 5,
        "shoal_predictions_claimed": 3,
        "shoal_predictions_oldest_seconds": 2.5,
        "shoal_predictions_dead": 9,
    }
    assert text.count("of all servers on the database") == 4
