"""A row's answer has the same bits wherever it stands, and whatever processor feature is missing it is right."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_machine_cases import KERNELS, bits, block_of, data, fitted, names, score
from sklearn.svm import SVC, OneClassSVM

from shoal.kernels.kernel_machine import SCORE


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KERNELS), st.integers(1, 9), st.integers(6, 90), st.data())
def test_neighbours_and_position_change_no_bit(seed, kernel, features, rows, choices):
    estimator, X = fitted(OneClassSVM(kernel=kernel, nu=0.6), seed, rows=rows, features=features)
    block = block_of(estimator, features=names(X))
    asked = data(seed + 1, rows=150, features=features)[0]
    together = bits(score(block, asked).values)
    alone = score(block, asked, [(0, i, i + 1) for i in range(len(asked))])
    assert (bits(alone.values) == together).all()
    order = np.random.default_rng(seed).permutation(len(asked))
    cuts = sorted(choices.draw(st.sets(st.integers(1, len(asked) - 1), max_size=12)))
    edges = [0, *cuts, len(asked)]
    split = score(block, asked[order], [(0, lo, hi) for lo, hi in itertools.pairwise(edges)])
    assert (bits(split.values) == together[order]).all()


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KERNELS), st.integers(2, 5))
def test_nor_do_they_change_a_bit_of_a_probability(seed, kernel, classes):
    svm = SVC(kernel=kernel, probability=True, random_state=0)
    estimator, X = fitted(svm, seed, rows=40, classes=classes)
    block = block_of(estimator, features=names(X))
    together = score(block, X)
    alone = score(block, X, [(0, i, i + 1) for i in range(len(X))])
    assert (bits(alone.probabilities) == bits(together.probabilities)).all()
    assert (alone.labels == together.labels).all()


def test_a_broken_neighbour_changes_no_bit():
    estimator, X = fitted(OneClassSVM(), 0)
    block = block_of(estimator, features=names(X))
    broken = X.copy()
    broken[1::4] = np.nan
    kept = np.arange(len(X)) % 4 != 1
    assert (bits(score(block, broken).values)[kept] == bits(score(block, X).values)[kept]).all()


def test_no_reference_is_counted_and_no_sum_is_left_to_a_scalar_tail():
    compiled = numba.njit(SCORE.signature, **SCORE.options)(SCORE.function)
    assembly = next(iter(compiled.inspect_asm().values()))
    assert "NRT_incref" not in assembly
    assert "NRT_decref" not in assembly
    wide = "zmm" if "+avx512f" in numba.core.registry.cpu_target.target_context.codegen().magic_tuple()[2] else "mm"
    assert assembly.count(wide) > 1000


PLAIN = """
import numpy as np, sys
from sklearn.svm import SVC, SVR
from kernel_machine_cases import KERNELS, block_of, fitted, names, score
for kernel in KERNELS:
    estimator, X = fitted(SVR(kernel=kernel), 0)
    answers = score(block_of(estimator, features=names(X)), X)
    np.testing.assert_allclose(answers.values, estimator.predict(X), rtol=1e-9, atol=1e-9)
"""


@pytest.mark.timeout(600)
def test_a_processor_without_wide_vectors_gives_the_same_answers(tmp_path):
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "SHOAL_HOME": str(tmp_path)}
    environment = {**os.environ, **plain, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", PLAIN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
