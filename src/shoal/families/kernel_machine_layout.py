"""A kernel machine as plain numbers, and those numbers in the order that the kernel reads them in."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.families.contract import Static
from shoal.kernels.kernel_machine import KernelFunction
from shoal.kernels.lanes import WIDTH
from shoal.types import Floats, Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One fitted kernel machine, whichever class it comes from.

    Attributes
    ----------
    kernel : KernelFunction
        The similarity.
    degree : int
        Exponent of the polynomial kernel; 0 for the others.
    gamma, coef0 : float
        The kernel's numbers; 0 where it has none.
    support : ndarray of float64, shape (n, inputs)
        Support vectors, those of one class together.
    coefficients : ndarray of float64, shape (1, n) or (classes - 1, n)
        libsvm's ``sv_coef``: from three classes on, one row per opponent.
    intercept : ndarray of float64, shape (1,) or (pairs,)
        Added to the weighted sums.
    counts : ndarray of int64, shape (1,) or (classes,)
        Support vectors per class, from three classes on; else their number.
    platt : ndarray of float64, shape (pairs, 2), or None
        Slopes and offsets of the sigmoids.
    break_ties : bool
        Whether equal votes are told apart by confidence.
    classes : ndarray or None
        Class labels; None unless classification.
    """

    kernel: KernelFunction
    degree: int
    gamma: float
    coef0: float
    support: Floats
    coefficients: Floats
    intercept: Floats
    counts: Integers
    platt: Floats | None = None
    break_ties: bool = False
    classes: NDArray[np.generic] | None = None

    def collapsed(self) -> "Machine":
        """The same machine with as few support vectors as its kernel needs.

        With a linear kernel the weighted sum of products is the product with one weighted sum, so one vector is enough
        wherever there is a single decision value.
        """
        if self.kernel is not KernelFunction.LINEAR or len(self.counts) > 1:
            return self
        return Machine(
            kernel=self.kernel, degree=self.degree, gamma=self.gamma, coef0=self.coef0,
            support=self.coefficients @ self.support, coefficients=np.ones((1, 1)), intercept=self.intercept,
            counts=np.ones(1, dtype=np.int64), platt=self.platt, break_ties=self.break_ties, classes=self.classes,
        )  # fmt: skip

    def static(self) -> dict[str, Static]:
        """What all machines of a layout have in common."""
        return {
            "kernel": self.kernel.name.lower(),
            "degree": self.degree,
            "classes": 0 if self.classes is None else len(self.classes),
            "probability": self.platt is not None,
            "break_ties": self.break_ties,
        }

    def parameters(self) -> dict[str, NDArray[np.generic]]:
        """The columns of the family."""
        blocks = -(-self.counts // WIDTH)
        places = _places(self.counts, blocks)
        total = int(blocks.sum())
        support = np.zeros((total * WIDTH, self.support.shape[1]))
        support[places] = self.support
        coefficients = np.zeros((len(self.coefficients), total * WIDTH))
        coefficients[:, places] = self.coefficients
        columns: dict[str, NDArray[np.generic]] = {
            "gamma": np.array([self.gamma]),
            "coef0": np.array([self.coef0]),
            "blocks": blocks,
            "intercept": self.intercept,
            "support": support.reshape(total, WIDTH, support.shape[1]).transpose(0, 2, 1).reshape(-1),
            "coefficients": coefficients.reshape(len(coefficients), total, WIDTH).transpose(1, 0, 2).reshape(-1),
        }
        return columns if self.platt is None else {**columns, "platt": self.platt}


def _places(counts: Integers, blocks: Integers) -> Integers:
    """For each support vector its number among the padded ones: every class begins a block."""
    shifts = np.cumsum(blocks * WIDTH - counts) - (blocks * WIDTH - counts)
    places: Integers = np.arange(int(counts.sum())) + np.repeat(shifts, counts)
    return places


def unpacked(
    fixed: Mapping[str, NDArray[np.generic]], support: Floats, coefficients: Floats, width: int
) -> tuple[Floats, Floats]:
    """The support vectors and coefficients of one model as matrices again, padding included.

    Parameters
    ----------
    fixed : mapping of str to ndarray
        The model's own fixed parameters.
    support, coefficients : ndarray of float64
        The model's own ragged parameters.
    width : int
        Inputs.

    Returns
    -------
    support : ndarray of float64, shape (n, width)
    coefficients : ndarray of float64, shape (1 or classes - 1, n)
    """
    total = int(np.asarray(fixed["blocks"]).sum())
    vectors = support.reshape(total, width, WIDTH).transpose(0, 2, 1).reshape(total * WIDTH, width)
    rows = max(1, len(fixed["blocks"]) - 1)
    weights = coefficients.reshape(total, rows, WIDTH).transpose(1, 0, 2).reshape(rows, total * WIDTH)
    return vectors, weights
