"""What a kernel machine answers, in plain NumPy and slowly: the truth the kernel is tested against."""

import numpy as np

from shoal.families.kernel_machine_layout import Machine
from shoal.kernels.kernel_machine import KernelFunction
from shoal.types import Floats, Integers


def decisions(machine: Machine, X: Floats) -> Floats:
    """The decision values, with libsvm's signs.

    Parameters
    ----------
    machine : Machine
        The model.
    X : ndarray of float64, shape (rows, inputs)
        Its inputs.

    Returns
    -------
    ndarray of float64, shape (rows, 1) or (rows, pairs)
        From three classes on, one column per pair (i, j), i < j, positive for i.
    """
    similar = _similar(machine, X)
    if len(machine.counts) == 1:
        return similar @ machine.coefficients.T + machine.intercept
    ends = np.cumsum(machine.counts)
    parts = [slice(end - count, end) for end, count in zip(ends, machine.counts, strict=True)]
    columns = [
        similar[:, parts[i]] @ machine.coefficients[j - 1, parts[i]]
        + similar[:, parts[j]] @ machine.coefficients[i, parts[j]]
        for i, j in _pairs(len(parts))
    ]
    return np.stack(columns, axis=1) + machine.intercept


def _pairs(classes: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


def _similar(machine: Machine, X: Floats) -> Floats:
    if machine.kernel is KernelFunction.RBF:
        gaps = X[:, None, :] - machine.support[None, :, :]
        distances: Floats = np.exp(-machine.gamma * (gaps * gaps).sum(axis=2))
        return distances
    products: Floats = X @ machine.support.T
    if machine.kernel is KernelFunction.LINEAR:
        return products
    scaled: Floats = machine.gamma * products + machine.coef0
    return scaled**machine.degree if machine.kernel is KernelFunction.POLY else np.tanh(scaled)


def elected(values: Floats, classes: int, break_ties: bool) -> Integers:
    """The winners' positions among the classes, from :func:`decisions`."""
    votes = np.zeros((len(values), classes))
    confidence = np.zeros((len(values), classes))
    for (i, j), column in zip(_pairs(classes), values.T, strict=True):
        first = ~(column < 0) if break_ties else column > 0
        votes[:, i] += first
        votes[:, j] += ~first
        confidence[:, i] += column
        confidence[:, j] -= column
    if break_ties:
        votes += confidence / (3 * (np.abs(confidence) + 1))
    winners: Integers = np.argmax(votes, axis=1)
    return winners


def coupled(values: Floats, platt: Floats, classes: int) -> Floats:
    """Probabilities by libsvm's pairwise coupling; see :mod:`shoal.kernels.platt` for the sources.

    Returns
    -------
    ndarray of float64, shape (rows, classes)
    """
    z = values * platt[:, 0] + platt[:, 1]
    with np.errstate(over="ignore"):
        first = np.clip(1.0 / (1.0 + np.exp(z)), 1e-7, 1 - 1e-7)
    pairwise = np.zeros((len(values), classes, classes))
    for (i, j), column in zip(_pairs(classes), first.T, strict=True):
        pairwise[:, i, j] = column
        pairwise[:, j, i] = 1.0 - column
    return np.array([_couple(one, classes) for one in pairwise]).reshape(len(values), classes)


def _couple(pairwise: Floats, classes: int) -> Floats:
    q: Floats = -pairwise * pairwise.T
    np.fill_diagonal(q, (pairwise**2).sum(axis=0))
    p = np.full(classes, 1.0 / classes)
    for _ in range(max(100, classes)):
        gradient = q @ p
        value = float(p @ gradient)
        if np.abs(gradient - value).max() < 0.005 / classes:
            break
        for t in range(classes):
            step = (value - gradient[t]) / q[t, t]
            p[t] += step
            value = (value + step * (step * q[t, t] + 2 * gradient[t])) / (1 + step) ** 2
            gradient = (gradient + step * q[t]) / (1 + step)
            p /= 1 + step
    return p
