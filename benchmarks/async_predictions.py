"""Requests that nobody waits for: how many are accepted and completed per second, over HTTP, on each database."""

import contextlib
import statistics
import time
from collections.abc import Iterator

from benchmarks import http_load, servers
from benchmarks.case import Bound, Effort, Result
from benchmarks.key_only import postgresql
from benchmarks.serving_fleets import home, keyed_requests, ridges, zipf_numbers
from shoal.ledger import Predictions

CONNECTIONS = 128
MEASURED_S = 5.0
MODELS = 10_000
LIMIT = 2_000


def accepted_and_completed(effort: Effort) -> list[Result]:
    """One worker process; from the first request until the last that was accepted has its result."""
    results = []
    for database in ("SQLite", "PostgreSQL"):
        with _database(database) as url:
            results.append(_measured(effort, database, url))
    return results


def _measured(effort: Effort, database: str, url: str) -> Result:
    count = effort.models(MODELS)
    with home(url) as place:
        place.put(ridges(count))
        with servers.shoal(place.path, ["ridges"], "--no-grpc", key=place.key, database=url) as server:
            requests = [
                request.replace(b"/infer ", b"/infer/async ", 1)
                for request in keyed_requests(server, "ridges", zipf_numbers(count, 5_000))
            ]
            load = http_load.Load(
                port=server.port, connections=CONNECTIONS, seconds=MEASURED_S, warmup_s=0.0, requests=requests, good=202
            )
            rates = [_rate(load, place.workspace.predictions) for _ in range(effort.repeats)]
    rate = statistics.median(rates)
    return Result(
        case=f"requests accepted and completed per second, {database}, {CONNECTIONS} connections, {count:,} models",
        against="a fixed limit",
        shoal=f"{rate:,.0f}",
        figure=rate,
        unit="/s",
        limit=LIMIT,
        bound=Bound.AT_LEAST,
        note="one worker; accepted means committed; until the last one is completed, with API keys and metrics on",
    )


def _rate(load: http_load.Load, predictions: Predictions) -> float:
    """Completed predictions per second of a load, the time to work off what is left included."""
    outcome = http_load.run(load)
    left = time.perf_counter()
    if outcome.refused or outcome.broken or not outcome.answers:
        raise RuntimeError(f"answers that are none: {outcome}")
    while predictions.backlog().requests:
        time.sleep(0.01)
    return outcome.answers / (outcome.seconds + time.perf_counter() - left)


@contextlib.contextmanager
def _database(name: str) -> Iterator[str]:
    if name == "SQLite":
        yield ""
        return
    with postgresql() as server:
        yield server.url(server.create())


CASES = {"serve-async": accepted_and_completed}
