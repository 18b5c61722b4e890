"""Nanoseconds per kernel evaluation on one core: ``python -m benchmarks.kernels``.

An evaluation is one row against one support vector. Padding of the support vectors to whole blocks, the column-
transform stage, weighted sums and intercepts are all in the time, but only real support vectors are counted. A few
machines are fitted and their packed models repeated, each copy in memory of its own.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.kernel_ridge import KernelRidge

from benchmarks.case import median_s
from shoal.families import family, pack
from shoal.families.contract import Answers, Batch, ModelBlock
from shoal.families.stacking import stack

FITTED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One line: a number of models and what each of them does."""

    models: int
    rows: int
    features: int
    support: int
    kernel: str = "rbf"


SHAPES = (
    Shape(models=10_000, rows=60, features=4, support=41),
    Shape(models=1_000, rows=60, features=4, support=41),
    Shape(models=100, rows=60, features=4, support=41),
    Shape(models=100_000, rows=6, features=4, support=41),
    Shape(models=100_000, rows=1, features=4, support=41),
    Shape(models=100, rows=64, features=4, support=40),
    Shape(models=100, rows=64, features=1, support=400),
    Shape(models=100, rows=64, features=4, support=400),
    Shape(models=20, rows=64, features=10, support=500),
    Shape(models=20, rows=64, features=30, support=500),
    Shape(models=1_000, rows=60, features=4, support=1),
    Shape(models=1_000, rows=60, features=4, support=9),
    Shape(models=1_000, rows=60, features=4, support=41, kernel="poly"),
    Shape(models=1_000, rows=60, features=4, support=41, kernel="sigmoid"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per shape."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    print("kernel    models   rows  features  support    ns per evaluation   largest difference")
    for shape in SHAPES:
        figure_ns, difference = _measured(shape, options.repeats)
        print(
            f"{shape.kernel:8} {shape.models:7} {shape.rows:6} {shape.features:9} {shape.support:8} "
            f"{figure_ns:20.3f} {difference:20.1e}",
            flush=True,
        )


def _measured(shape: Shape, repeats: int) -> tuple[float, float]:
    random = np.random.default_rng(0)
    fitted = [_fitted(shape, random) for _ in range(FITTED)]
    packed = [pack(machine, [f"x{i}" for i in range(shape.features)]) for machine in fitted]
    block = stack([packed[i % FITTED] for i in range(shape.models)]).block()
    X = random.normal(size=(shape.models * shape.rows, shape.features))
    answers, score = _scoring(block, X, shape.rows)
    seconds = median_s(repeats, score)
    truth = np.concatenate([fitted[i].predict(X[i * shape.rows :][: shape.rows]) for i in range(FITTED)])
    difference = float(np.abs(answers.values[: len(truth)] - truth).max())
    return seconds * 1e9 / (len(X) * shape.support), difference


def _fitted(shape: Shape, random: np.random.Generator) -> KernelRidge:
    """Kernel ridge regression keeps every training row, so the number of support vectors can be chosen."""
    X = random.normal(size=(shape.support, shape.features))
    return KernelRidge(kernel=shape.kernel, gamma=0.25, alpha=10.0).fit(X, X[:, 0])


def _scoring(block: ModelBlock, X: np.ndarray, rows: int) -> tuple[Answers, Callable[[], None]]:
    starts = np.arange(0, len(X), rows)
    batch = Batch(X=np.ascontiguousarray(X.T), units=np.stack([np.arange(len(starts)), starts, starts + rows], axis=1))
    answers = Answers(
        values=np.zeros(len(X)),
        labels=np.full(len(X), -1, np.int32),
        probabilities=np.zeros((len(X), 0)),
        reasons=np.zeros(len(X), np.uint8),
        culprits=np.zeros(len(X), np.int16),
    )
    score = family(block.layout.family).score
    return answers, lambda: score(block, batch, answers, 0, len(starts))


if __name__ == "__main__":
    main()
