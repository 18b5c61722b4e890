"""Estimators that misbehave in segments whose rows say so: the first feature tells what to do."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

RAISE, KILL, HANG = 111.0, 222.0, 333.0


class Moody(LinearRegression):
    """A linear regression with moods. What it fits is an ordinary one, which can be packed."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegression:
        self._mind(np.asarray(X)[:, 0])
        return LinearRegression().fit(X, y, sample_weight)

    @staticmethod
    def _mind(mood: Any) -> None:
        if (mood == RAISE).all():
            raise ValueError("this segment is cursed")
        if (mood == KILL).all():
            os.kill(os.getpid(), signal.SIGKILL)
        if (mood == HANG).all():
            time.sleep(120)


class Slow(LinearRegression):
    """A linear regression that takes its time."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegression:
        if begun := os.environ.get("SLOW_BEGUN"):
            Path(begun).touch()
        time.sleep(0.5)
        return LinearRegression().fit(X, y, sample_weight)
