"""Kernel machines against the suite that every family must pass."""

import numpy as np
import polars as pl
import pytest
from kernel_machine_cases import CLASSIFIERS, KERNELS, OTHERS, fitted
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.kernel_ridge import KernelRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, OneClassSVM

from shoal.testing.families import check_family

FEATURES = ("x0", "x1", "x2", "x3")


def rows():
    random = np.random.default_rng(11)
    ordinary = random.normal(size=(40, 4)) * 2
    odd = np.tile(ordinary[:6], (2, 1))
    odd[np.arange(8), np.arange(8) % 4] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, np.nan, 30.0]
    return np.concatenate([ordinary, odd])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", OTHERS)
def test_values(kind, kernel):
    models = [fitted(kind(kernel=kernel), seed, scale=scale)[0] for seed in (0, 1) for scale in (False, True)]
    check_family(models, features=FEATURES, rows=rows())


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classes(kind, kernel, classes):
    own = {"nu": 0.2} if kind is NuSVC else {}
    shape = {"classes": classes, "rows": 50, "scale": True}
    check_family(
        [fitted(kind(kernel=kernel, **own), seed, **shape)[0] for seed in (0, 1)], features=FEATURES, rows=rows()
    )
    svm = kind(kernel=kernel, probability=True, random_state=0, **own)
    check_family([fitted(svm, 2, **shape)[0]], features=FEATURES, rows=rows())


def test_integer_and_boolean_labels():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 4))
    for labels in (np.round(X[:, 0]).astype(int), X[:, 0] > 0):
        check_family([SVC().fit(X, labels)], features=FEATURES, rows=rows())


def test_imputed_and_one_hot_columns():
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "colour": [["red", "green", "blue"][i % 3] for i in range(60)],
            "size": [None if i % 7 == 0 else float(v) for i, v in enumerate(random.normal(size=60))],
        }
    )
    target = random.normal(size=60)
    models = []
    for kept, svm in ((["red", "green"], SVR()), (["red", "green", "blue"], SVR()), (["blue", "red"], SVR(C=3.0))):
        chosen = frame["colour"].is_in(kept)
        before = ColumnTransformer(
            [
                ("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"]),
                ("size", make_pipeline(SimpleImputer(), StandardScaler()), ["size"]),
            ]
        )
        models.append(make_pipeline(before, svm).fit(frame.filter(chosen), target[chosen.to_numpy()]))
    check_family(models, features=("colour", "size"), rows=frame)


@pytest.mark.parametrize("kind", [OneClassSVM, KernelRidge])
def test_many_features(kind):
    models = [fitted(kind(kernel="rbf"), seed, features=30, rows=120)[0] for seed in (0, 1)]
    random = np.random.default_rng(3)
    check_family(models, features=tuple(f"x{i}" for i in range(30)), rows=random.normal(size=(50, 30)))
