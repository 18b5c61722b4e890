"""Exponential and hyperbolic tangent of eight numbers per row at a time, without calls to the mathematics library.

``2**t`` is split as ``2**n * 2**r`` with ``n`` the integer nearest to ``t``: adding and subtracting 1.5 * 2**52 rounds,
and leaves ``n`` in the lowest bits, from where it is added to the exponent of a polynomial for ``2**r``. The polynomial
interpolates ``(2**r - 1) / r`` in the Chebyshev nodes of [-1/2, 1/2]; ``tests/unit/kernels/test_exponential.py``
derives its coefficients anew with 50 digits. Ten terms are wrong by 6e-16 at most, relatively, eleven by 2e-17 but 6%
slower, nine by 4e-14. Horner's scheme needs the fewest multiplications, and a processor finds enough independent rows
to hide its latency; Estrin's does not pay. The natural exponential's ``log2(e)`` is left to the caller, who has a
factor to fold it into.
"""

from shoal.kernels.lanes import Lanes, add_to_exponent, at_least, at_most, lane_function, multiply_add

LOG2_E = 1.4426950408889634

#: 2**r is about 1 + r * (C1 + r * (C2 + ...)) on [-1/2, 1/2].
C1 = 0.6931471805599462
C2 = 0.24022650695910075
C3 = 0.05550410866465167
C4 = 0.009618129107618665
C5 = 0.0013333558200794592
C6 = 0.00015403530424776529
C7 = 1.5252672924850737e-05
C8 = 1.3215451633221434e-06
C9 = 1.0205905413765595e-07
C10 = 7.070977866508138e-09

ROUND = 6755399441055744.0  # 1.5 * 2**52
LEAST = -1023.0  # the polynomial is 1 there, and the exponent becomes that of zero
MOST_TANH = 64.0  # beyond it, tanh is 1 in double precision


@lane_function
def exp2(t: Lanes) -> Lanes:
    """Two to the power of ``t``, for ``t`` below 1023.5; at most two units in the last place from the truth.

    What would be denormal is somewhere between 0 and 2.3e-308, below -1023 it is exactly 0. NaN stays NaN.
    """
    t = at_least(t, LEAST)
    rounded = t + ROUND
    r = t - (rounded - ROUND)
    p = multiply_add(r, C10, C9)
    p = multiply_add(p, r, C8)
    p = multiply_add(p, r, C7)
    p = multiply_add(p, r, C6)
    p = multiply_add(p, r, C5)
    p = multiply_add(p, r, C4)
    p = multiply_add(p, r, C3)
    p = multiply_add(p, r, C2)
    p = multiply_add(p, r, C1)
    p = multiply_add(p, r, 1.0)
    return add_to_exponent(p, rounded)


@lane_function
def tanh_of_half_log(t: Lanes) -> Lanes:
    """``(2**t - 1) / (2**t + 1)``, which is ``tanh(t * log(2) / 2)``; absolute error below 3e-16. NaN stays NaN."""
    power = exp2(at_most(t, MOST_TANH))
    return (power - 1.0) / (power + 1.0)
