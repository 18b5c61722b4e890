"""The conformance suite notices a family that answers wrongly."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import shoal.testing.families as suite
from shoal.families.affine import AffineFamily
from shoal.testing.families import check_family

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(40, 2))
ROWS = np.concatenate([GENERATOR.normal(size=(20, 2)), [[np.nan, 1.0], [np.inf, 0.0]]])


class Faulty(AffineFamily):
    """An affine family whose answers are spoiled."""

    def __init__(self, spoil):
        super().__init__()
        object.__setattr__(self, "spoil", spoil)

    def score(self, block, batch, answers, lo, hi):
        super().score(block, batch, answers, lo, hi)
        for _, start, stop in batch.units[lo:hi]:
            self.spoil(answers, np.arange(start, stop))


def off_by_little(answers, rows):
    answers.values[rows] *= 1 + 1e-8


def neighbours_matter(answers, rows):
    if len(rows) == 1:
        answers.values[rows] = np.nextafter(answers.values[rows], np.inf)


def marks_too_much(answers, rows):
    answers.reasons[rows[:1]] = 1


def marks_too_little(answers, rows):
    answers.reasons[rows] = 0


def swaps_labels(answers, rows):
    answers.labels[rows] = 1 - answers.labels[rows]


def forgets_probabilities(answers, rows):
    answers.probabilities[rows] = np.nan


@pytest.mark.parametrize(
    ("spoil", "classifier"),
    [
        (off_by_little, False), (neighbours_matter, False), (marks_too_much, False), (marks_too_little, False),
        (swaps_labels, True), (forgets_probabilities, True),
    ],
)  # fmt: skip
def test_faults_are_noticed(monkeypatch, spoil, classifier):
    model = LogisticRegression().fit(X, X[:, 0] > 0) if classifier else Ridge().fit(X, X[:, 0])
    check_family([model], features=["a", "b"], rows=ROWS)
    monkeypatch.setattr(suite, "family", lambda name: Faulty(spoil))
    with pytest.raises(AssertionError):
        check_family([model], features=["a", "b"], rows=ROWS)


def test_wrong_transforms_are_noticed(monkeypatch):
    model = make_pipeline(StandardScaler(), Ridge()).fit(X, X[:, 0])
    pack = suite.pack

    def wrong(estimator, features):
        packed = pack(estimator, features)
        return replace(packed, transform=packed.transform * (1 + 1e-7))

    monkeypatch.setattr(suite, "pack", wrong)
    with pytest.raises(AssertionError, match="values differ from Pipeline"):
        check_family([model], features=["a", "b"], rows=ROWS)
