"""The trees kernel alone, on all cores, against a preloaded loop over scikit-learn: ``python -m benchmarks.trees``.

``python -m benchmarks`` measures whole fleets; this leaves keys, frames and tables out and shows where the kernel
stands. A few estimators are fitted and their packed models repeated, each copy in memory of its own.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from threadpoolctl import threadpool_limits

from benchmarks.case import median_s
from shoal.engines.threads import Threads
from shoal.families import family, pack
from shoal.families.contract import Answers, Batch, ModelBlock
from shoal.families.stacking import stack

FEATURES, TRAINED_ON, FITTED = 4, 200, 8

ESTIMATORS: dict[str, Callable[[int], object]] = {
    "IsolationForest(100)": lambda seed: IsolationForest(random_state=seed),
    "RandomForestRegressor(100)": lambda seed: RandomForestRegressor(random_state=seed),
    "RandomForestClassifier(100)": lambda seed: RandomForestClassifier(random_state=seed),
    "HistGradientBoostingRegressor(100)": lambda seed: HistGradientBoostingRegressor(random_state=seed),
    "GradientBoostingRegressor(100)": lambda seed: GradientBoostingRegressor(random_state=seed),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per kind of estimator."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trees", description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=60, help="rows per model")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    for name in ESTIMATORS:
        print(_line(name, options.models, options.rows, options.repeats), flush=True)


def _line(name: str, models: int, rows: int, repeats: int) -> str:
    random = np.random.default_rng(0)
    fitted = [_fitted(name, seed, random) for seed in range(FITTED)]
    first = stack([pack(fitted[0], list("abcd"))]).block()  # loads the kernels that pack and validate
    family(first.layout.family).validate(first)
    started = time.perf_counter()
    packed = [pack(estimator, list("abcd")) for estimator in fitted]
    packing_s = (time.perf_counter() - started) / FITTED
    block = stack([packed[i % FITTED] for i in range(models)]).block()
    started = time.perf_counter()
    family(block.layout.family).validate(block)
    validating_s = (time.perf_counter() - started) / models
    X = random.normal(size=(models * rows, FEATURES))
    method = [getattr(estimator, "decision_function", estimator.predict) for estimator in fitted]  # type: ignore[attr-defined]
    looped = min(models, 100)
    with threadpool_limits(1):  # OpenMP's threads are no help with so few rows, and spin when cores are busy
        peer_s = median_s(repeats, lambda: [method[i % FITTED](X[i * rows :][:rows]) for i in range(looped)]) / looped
    shoal_s = median_s(repeats, _scoring(block, X, rows)) / models
    size = block.ragged["nodes"].values.nbytes + block.ragged["answers"].values.nbytes
    return (
        f"{name}: {shoal_s * 1e6:.1f} us per model against {peer_s * 1e6:.0f} us = {peer_s / shoal_s:.0f}x; "
        f"{size / models / 1e3:.0f} kB, packed in {packing_s * 1e3:.1f} ms, checked in {validating_s * 1e6:.0f} us"
    )


def _fitted(name: str, seed: int, random: np.random.Generator) -> object:
    X = random.normal(size=(TRAINED_ON, FEATURES))
    y = 2 * X[:, 0] + X[:, 1] ** 2 + random.normal(size=TRAINED_ON)
    target = np.digitize(y, [0, 2]) if "Classifier" in name else y
    return ESTIMATORS[name](seed).fit(X, target)  # type: ignore[attr-defined]


def _scoring(block: ModelBlock, X: np.ndarray, rows: int) -> Callable[[], None]:
    count = len(X)
    starts = np.arange(0, count, rows)
    batch = Batch(X=np.ascontiguousarray(X.T), units=np.stack([np.arange(len(starts)), starts, starts + rows], axis=1))
    answers = Answers(
        values=np.empty(count),
        labels=np.full(count, -1, np.int32),
        probabilities=np.full((count, len(block.class_map)), np.nan),
        reasons=np.zeros(count, np.uint8),
        culprits=np.zeros(count, np.int16),
    )
    threads, trees = Threads(), family(block.layout.family)
    trees.warm()
    return lambda: threads.over(len(batch.units), lambda lo, hi: trees.score(block, batch, answers, lo, hi), grain=16)


if __name__ == "__main__":
    main()
