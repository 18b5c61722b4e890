"""Many fitted models, and the rows they are asked about."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

FEATURES = ("a", "b", "c", "d")
KEYS = ("device", "sensor")
SENSORS_PER_DEVICE = 8

Key = tuple[str, str]
Matrix = NDArray[np.float64]
Fit = Callable[[np.random.Generator], BaseEstimator]


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """Models by key, and rows for each.

    Attributes
    ----------
    models : mapping of Key to estimator
        Every one an object of its own.
    rows : mapping of Key to ndarray of float64, shape (rows, 4)
        What each model is asked, grouped: a peer's loop gets the grouping for free.
    frame : DataFrame
        The same rows, shuffled, with their keys as two string columns and their ``position`` in the group: what
        Shoal gets.
    """

    models: Mapping[Key, BaseEstimator]
    rows: Mapping[Key, Matrix]
    frame: pl.DataFrame


def populate(fit: Fit, *, models: int, rows_each: int, distinct: int, seed: int = 7) -> Population:
    """Make a population.

    Parameters
    ----------
    fit : callable
        Fits one estimator on data that it draws from the generator.
    models : int
        How many.
    rows_each : int
        Rows per model.
    distinct : int
        How many are fitted; the others are deep copies in turn, so that each has arrays of its own.
    seed : int
        Seed of all randomness.
    """
    generator = np.random.default_rng(seed)
    fitted = [fit(generator) for _ in range(min(distinct, models))]
    copies = [fitted[i] if i < len(fitted) else copy.deepcopy(fitted[i % len(fitted)]) for i in range(models)]
    keys = [segment(i) for i in generator.permutation(models)]
    X = generator.normal(size=(models * rows_each, len(FEATURES)))
    rows = dict(zip(keys, np.split(X, models), strict=True))
    return Population(
        models=dict(zip(keys, copies, strict=True)),
        rows=rows,
        frame=shuffled(keys, X, rows_each, generator),
    )


def segment(number: int) -> Key:
    """The key of a model: which device, which of its sensors."""
    device, sensor = divmod(int(number), SENSORS_PER_DEVICE)
    return f"device-{device:06d}", f"sensor-{sensor}"


def shuffled(keys: list[Key], X: Matrix, rows_each: int, generator: np.random.Generator) -> pl.DataFrame:
    """Rows in no order, each with its key and its position among its model's rows."""
    frame = pl.DataFrame(
        {
            "device": np.repeat([device for device, _ in keys], rows_each),
            "sensor": np.repeat([sensor for _, sensor in keys], rows_each),
            "position": np.tile(np.arange(rows_each), len(keys)),
            **{name: X[:, column] for column, name in enumerate(FEATURES)},
        }
    )
    return frame[generator.permutation(frame.height)].rechunk()
