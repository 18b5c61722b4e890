"""Packed kernel machines answer as scikit-learn's estimators do."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_machine_cases import (
    CLASSIFIERS,
    KERNELS,
    OTHERS,
    bits,
    block_of,
    data,
    fitted,
    names,
    score,
)
from sklearn.compose import ColumnTransformer
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from shoal.errors import UnsupportedEstimator
from shoal.families import pack
from shoal.families.kernel_machine import FAMILY
from shoal.types import Reason, Task

seeds = st.integers(0, 2**32 - 1)


def close(actual, expected, rounding=0.0):
    allowed = 1e-9 * np.maximum(1.0, np.abs(expected)) + rounding
    assert (np.abs(actual - expected) <= allowed).all(), np.abs(actual - expected).max()


def rounding(estimator, rows):
    """What any order of summation may be wrong by: huge terms that cancel leave no more digits than this."""
    ridge = isinstance(estimator, KernelRidge)
    support = estimator.X_fit_ if ridge else estimator.support_vectors_
    gamma = (estimator.gamma or 1.0 / support.shape[1]) if ridge else estimator._gamma
    own = {} if estimator.kernel in ("linear", "rbf") else {"coef0": estimator.coef0}
    own |= {} if estimator.kernel == "linear" else {"gamma": gamma}
    own |= {"degree": estimator.degree} if estimator.kernel == "poly" else {}
    terms = pairwise_kernels(np.abs(rows), np.abs(support), metric=estimator.kernel, **own)
    return 1e-14 * np.abs(terms) @ np.abs(estimator.dual_coef_.ravel())


def edge_rows(X, seed):
    """Rows to score: near, far, extreme, and the training rows themselves."""
    random = np.random.default_rng(seed)
    width = X.shape[1]
    near = random.normal(size=(30, width)) * 2
    return np.concatenate([X[:20], near, near[:5] * 50, np.zeros((1, width)), np.full((1, width), 1e3)])


def libsvm_decisions(estimator, rows):
    """Its decision values, one column per pair, with libsvm's own signs."""
    values = estimator._decision_function(rows)
    return -values[:, None] if values.ndim == 1 else values


@settings(max_examples=60)
@given(seeds, st.sampled_from(OTHERS), st.sampled_from(KERNELS), st.integers(1, 12), st.integers(5, 70))
def test_values(seed, kind, kernel, features, rows):
    estimator, X = fitted(kind(kernel=kernel), seed, rows=rows, features=features)
    asked = edge_rows(X, seed)
    expected = estimator.decision_function(asked) if kind is OneClassSVM else estimator.predict(asked)
    block = block_of(estimator, features=names(X))
    close(score(block, asked).values, expected, rounding(estimator, asked))
    close(FAMILY.reference(block, 0, asked.T).values, expected, rounding(estimator, asked))


@settings(max_examples=60)
@given(seeds, st.sampled_from(CLASSIFIERS), st.sampled_from(KERNELS), st.integers(2, 6), st.integers(1, 6))
def test_labels(seed, kind, kernel, classes, features):
    own = {"nu": 0.2} if kind is NuSVC else {}
    estimator, X = fitted(kind(kernel=kernel, **own), seed, rows=50, classes=classes, features=features)
    asked = edge_rows(X, seed)
    sure = (np.abs(libsvm_decisions(estimator, asked)) > 1e-9).all(axis=1)
    block = block_of(estimator, features=names(X))
    answers = score(block, asked)
    assert (estimator.classes_[answers.labels] == estimator.predict(asked))[sure].all()
    assert (FAMILY.reference(block, 0, asked.T).labels == answers.labels)[sure].all()
    assert np.isnan(answers.probabilities).all()


@settings(max_examples=40)
@given(seeds, st.sampled_from(KERNELS), st.integers(3, 7))
def test_labels_with_broken_ties(seed, kernel, classes):
    estimator, X = fitted(SVC(kernel=kernel, break_ties=True), seed, rows=42, classes=classes, features=2)
    asked = edge_rows(X, seed)
    best = np.sort(estimator.decision_function(asked), axis=1)
    sure = (np.abs(libsvm_decisions(estimator, asked)) > 1e-9).all(axis=1) & (best[:, -1] - best[:, -2] > 1e-9)
    block = block_of(estimator, features=names(X))
    answers = score(block, asked)
    assert (estimator.classes_[answers.labels] == estimator.predict(asked))[sure].all()
    assert (FAMILY.reference(block, 0, asked.T).labels == answers.labels)[sure].all()


def test_ties_go_to_the_first_class_unless_they_are_broken():
    X, y = data(3, rows=90, features=2, classes=3)
    grid = np.random.default_rng(0).normal(size=(4000, 2)) * 4
    plain, broken = (SVC(kernel="rbf", gamma=2.0, break_ties=broken).fit(X, y) for broken in (False, True))
    assert (plain.predict(grid) != broken.predict(grid)).any()
    for estimator in (plain, broken):
        labels = score(block_of(estimator, features=names(X)), grid).labels
        assert (estimator.classes_[labels] == estimator.predict(grid)).all()


@settings(max_examples=40)
@given(seeds, st.sampled_from(CLASSIFIERS), st.sampled_from(KERNELS), st.integers(2, 6))
def test_probabilities(seed, kind, kernel, classes):
    own = {"nu": 0.2} if kind is NuSVC else {}
    svm = kind(kernel=kernel, probability=True, random_state=0, **own)
    estimator, X = fitted(svm, seed, rows=48, classes=classes, features=3)
    asked = edge_rows(X, seed)
    expected = estimator.predict_proba(asked)
    block = block_of(estimator, features=names(X))
    close(score(block, asked).probabilities, expected)
    close(FAMILY.reference(block, 0, asked.T).probabilities, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_behind_a_scaler_with_own_kernel_numbers(kernel):
    for kind in (SVR, OneClassSVM):
        svm = kind(kernel=kernel, gamma=0.37, coef0=-0.8, degree=5)
        estimator, X = fitted(svm, 7, scale=True)
        expected = estimator.decision_function(X) if kind is OneClassSVM else estimator.predict(X)
        close(score(block_of(estimator, features=names(X)), X).values, expected)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 9])
def test_degrees(degree):
    for kind in (SVR, KernelRidge):
        estimator, X = fitted(kind(kernel="poly", degree=degree, gamma=0.2, coef0=1.0), 5)
        close(score(block_of(estimator, features=names(X)), X).values, estimator.predict(X))


@pytest.mark.parametrize("gamma", ["scale", "auto", 0.0, 1e-12, 50.0])
def test_gammas(gamma):
    estimator, X = fitted(OneClassSVM(gamma=gamma), 2)
    close(score(block_of(estimator, features=names(X)), X).values, estimator.decision_function(X))
    if not isinstance(gamma, str):
        ridge, X = fitted(KernelRidge(kernel="rbf", gamma=gamma), 2)
        close(score(block_of(ridge, features=names(X)), X).values, ridge.predict(X))


def test_far_from_the_origin_differences_keep_their_digits():
    X, y = data(1)
    shift = np.array([1.7e9, 300.0, -4e6, 0.0])
    estimator = SVR(gamma=0.5).fit(X + shift, y)
    close(score(block_of(estimator, features=names(X)), X + shift).values, estimator.predict(X + shift))


def test_rows_beyond_all_bounds_underflow_or_are_not_finite():
    estimator, X = fitted(SVR(kernel="rbf"), 4)
    far = np.full((3, 4), 1e200)
    assert (score(block_of(estimator, features=names(X)), far).values == estimator.predict(far)).all()
    estimator, X = fitted(SVR(kernel="poly"), 4)
    assert not np.isfinite(score(block_of(estimator, features=names(X)), far).values).any()


def test_a_missing_or_infinite_value_marks_its_row_and_no_other():
    estimator, X = fitted(OneClassSVM(), 0)
    whole = score(block_of(estimator, features=names(X)), X)
    broken = X.copy()
    broken[[3, 9, 40], [1, 0, 3]] = [np.nan, np.inf, -np.inf]
    answers = score(block_of(estimator, features=names(X)), broken)
    assert answers.reasons[[3, 9, 40]].tolist() == [Reason.MISSING_VALUE, Reason.INFINITE_VALUE, Reason.INFINITE_VALUE]
    assert answers.culprits[[3, 9, 40]].tolist() == [1, 0, 3]
    good = answers.reasons == 0
    assert good.sum() == len(X) - 3
    assert (bits(answers.values)[good] == bits(whole.values)[good]).all()


def test_a_model_without_support_vectors_is_its_intercept():
    X, _ = data(0)
    estimator = SVR(epsilon=10.0).fit(X, np.zeros(len(X)))
    assert len(estimator.support_vectors_) == 0
    assert (score(block_of(estimator, features=names(X)), X).values == estimator.predict(X)).all()


@pytest.mark.parametrize("kind", [OneClassSVM, SVR, NuSVR, KernelRidge, SVC])
def test_fitted_on_a_sparse_matrix(kind):
    X, y = data(6, classes=3 if kind is SVC else 0)
    X[np.abs(X) < 0.5] = 0.0
    estimator = kind(kernel="rbf", gamma=0.3).fit(scipy.sparse.csr_array(X), y)
    answers = score(block_of(estimator, features=names(X)), X)
    if kind is SVC:
        assert (estimator.classes_[answers.labels] == estimator.predict(X)).all()
    else:
        close(answers.values, estimator.decision_function(X) if kind is OneClassSVM else estimator.predict(X))


def test_models_of_many_sizes_share_a_block():
    models = [fitted(OneClassSVM(nu=0.4), seed, rows=rows)[0] for seed, rows in enumerate(range(4, 60, 5))]
    block = block_of(*models, features=names(data(0)[0]))
    X = np.concatenate([data(100 + i, rows=17)[0] for i in range(len(models))])
    units = [(i, 17 * i, 17 * i + 17) for i in range(len(models))]
    expected = np.concatenate([m.decision_function(X[17 * i : 17 * i + 17]) for i, m in enumerate(models)])
    close(score(block, X, units).values, expected)


def test_labels_and_probabilities_land_in_the_fleets_columns():
    X, y = data(0, classes=3)
    first, _ = fitted(SVC(probability=True, random_state=0), 0, classes=3)
    other = np.where(y == "class 0", "another", y)
    second = SVC(probability=True, random_state=0)
    with pytest.warns(FutureWarning, match="probability"):
        second.fit(X, other)
    block = block_of(first, second, features=names(X))
    answers = score(block, np.concatenate([X, X]), [(0, 0, len(X)), (1, len(X), 2 * len(X))])
    labels = np.array(["another", "class 0", "class 1", "class 2"])
    assert (labels[answers.labels] == np.concatenate([first.predict(X), second.predict(X)])).all()
    close(answers.probabilities[: len(X), 1:], first.predict_proba(X))
    close(answers.probabilities[len(X) :][:, [0, 2, 3]], second.predict_proba(X))
    assert np.isnan(answers.probabilities[: len(X), 0]).all()
    assert np.isnan(answers.probabilities[len(X) :, 1]).all()


def test_behind_one_hot_columns():
    random = np.random.default_rng(0)
    X = np.column_stack([random.integers(0, 5, 80), random.normal(size=(80, 2))]).astype(float)
    before = ColumnTransformer([("kind", OneHotEncoder(), [0]), ("rest", StandardScaler(), [1, 2])])
    estimator = make_pipeline(before, SVR(gamma=0.3)).fit(X, X[:, 0] + X[:, 1])
    close(score(block_of(estimator, features=names(X)), X).values, estimator.predict(X))


@pytest.mark.parametrize(
    ("estimator", "task"),
    [(OneClassSVM(), Task.ANOMALY), (SVR(), Task.REGRESSION), (KernelRidge(), Task.REGRESSION)],
)
def test_tasks(estimator, task):
    whole, X = fitted(estimator, 0)
    assert pack(whole, names(X)).layout.task is task


def test_a_linear_kernel_with_one_decision_needs_one_vector():
    estimator, X = fitted(SVR(kernel="linear"), 0)
    assert len(estimator.support_vectors_) > 8
    assert len(pack(estimator, names(X)).parameters["coefficients"]) == 8


def changed(estimator, **attributes):
    vars(estimator).update(attributes)
    return estimator


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda X, y: SVR(kernel="precomputed").fit(X @ X.T, y), "kernel"),
        (lambda X, y: SVR(kernel=lambda a, b: a @ b.T).fit(X, y), "kernel"),
        (lambda X, y: KernelRidge(kernel="laplacian").fit(X, y), "kernel"),
        (lambda X, y: KernelRidge(kernel="poly", degree=2.5).fit(np.abs(X), y), "degree"),
        (lambda X, y: KernelRidge().fit(X, np.stack([y, y], axis=1)), "dual_coef_"),
        (lambda X, y: changed(SVR().fit(X, y), _intercept_=np.array([np.nan])), "finite"),
        (lambda X, y: changed(SVC().fit(X, y > 0), _n_support=np.array([1, 2, 3])), "fit"),
        (lambda X, y: changed(SVC().fit(X, np.round(y) % 3), _n_support=np.array([1, 2, 3])), "fit together"),
        (lambda X, y: SVC(break_ties=True, decision_function_shape="ovo").fit(X, np.round(y) % 3), "break_ties"),
        (lambda X, y: changed(SVC().fit(X, np.round(y) % 3), _intercept_=np.zeros(2)), "fit together"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(make, part):
    X, y = data(0)
    estimator = make(X, y)
    width = getattr(estimator, "n_features_in_", X.shape[1])
    if part == "fit":  # two classes: libsvm's counts are not used, so nothing is wrong
        assert pack(estimator, [f"x{i}" for i in range(width)]).layout.task is Task.CLASSIFICATION
        return
    with pytest.raises(UnsupportedEstimator, match=part):
        pack(estimator, [f"x{i}" for i in range(width)])


@pytest.mark.parametrize("estimator", [SVR(), KernelRidge()])
def test_an_unfitted_machine_is_refused(estimator):
    with pytest.raises(UnsupportedEstimator, match="fit"):
        pack(estimator, ["x0"])
