"""Exponential and hyperbolic tangent of eight numbers per row at a time, without calls to the mathematics library.

``2**t`` is split as ``2**n * 2**r`` with ``n`` the multiple of a step that is nearest to ``t``: adding and subtracting
1.5 * 2**52 times the step rounds, and leaves ``n`` in the lowest bits. What is left of ``t``, at most half a step, goes
to a polynomial that interpolates ``(2**r - 1) / r`` in Chebyshev nodes; ``tests/unit/kernels/test_exponential.py``
derives all numbers anew with 50 digits. There are two ways:

- by polynomial, on every processor: the step is 1, and ten terms are wrong by 6e-16 relatively (eleven by 2e-17, but 6%
  slower; nine by 4e-14). ``n`` is added to the polynomial's exponent.
- by table, with AVX-512, where sixteen numbers fit into two registers and are looked up by one instruction: the step
  is 1/16, six terms are wrong by 2e-17, and the kernel machine is an eighth faster.

Horner's scheme needs the fewest multiplications, and a processor finds enough independent rows to hide its latency;
Estrin's does not pay. The natural exponential's ``log2(e)`` is left to the caller, who has a factor to fold it into.
"""

import struct

from numba.extending import overload

from shoal.kernels.lanes import (
    LANE_OPTIONS,
    Lanes,
    at_least,
    at_most,
    bit_adder,
    has_look_up,
    lane_function,
    look_up,
    multiply_add,
)

LOG2_E = 1.4426950408889634

#: 2**r is nearly 1 + r * (C1 + r * (C2 + ...)) for |r| up to 1/2.
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


#: The same for |r| up to 1/32.
F1 = 0.6931471805599457
F2 = 0.24022650695910075
F3 = 0.0555041086566393
F4 = 0.009618129106919537
F5 = 0.0013333781576784268
F6 = 0.00015403723980749256

STEPS = 16
ROUND_TO_STEP = ROUND / STEPS

#: 2**(i / 16) for i from 0 to 15.
POWERS = (
    1.0, 1.0442737824274138, 1.0905077326652577, 1.1387886347566916, 1.189207115002721, 1.241857812073484,
    1.2968395546510096, 1.3542555469368927, 1.4142135623730951, 1.4768261459394993, 1.5422108254079407,
    1.6104903319492543, 1.681792830507429, 1.7562521603732995, 1.8340080864093424, 1.9152065613971474,
)  # fmt: skip


def _without_step(power: float, step: int) -> float:
    """Take off the bits that come back when ``16 * n + step`` is added 48 bits up, where ``n`` meets the exponent."""
    bits: int = struct.unpack("<q", struct.pack("<d", power))[0]
    number: float = struct.unpack("<d", struct.pack("<q", bits - (step << 48)))[0]
    return number


_add_exponent = bit_adder(52)
_add_steps = bit_adder(48)
_power_of_step = look_up([_without_step(power, step) for step, power in enumerate(POWERS)])


@lane_function
def exp2_by_polynomial(t: Lanes) -> Lanes:
    """:func:`exp2` on any processor."""
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
    return _add_exponent(p, rounded)


@lane_function
def exp2_by_table(t: Lanes) -> Lanes:
    """:func:`exp2` where :func:`shoal.kernels.lanes.has_look_up`."""
    t = at_least(t, LEAST)
    rounded = t + ROUND_TO_STEP
    r = t - (rounded - ROUND_TO_STEP)
    p = multiply_add(r, F6, F5)
    p = multiply_add(p, r, F4)
    p = multiply_add(p, r, F3)
    p = multiply_add(p, r, F2)
    p = multiply_add(p, r, F1)
    power = _add_steps(_power_of_step(rounded), rounded)
    return multiply_add(power, p * r, power)


def exp2(t: Lanes) -> Lanes:
    """Two to the power of ``t``, for ``t`` below 1023; at most two units in the last place from the truth.

    What would be denormal is somewhere between 0 and 2.3e-308, below -1023 it is exactly 0. NaN stays NaN.
    """
    raise NotImplementedError("exp2 exists in compiled code only")


@overload(exp2, jit_options={"forceinline": True, **LANE_OPTIONS})  # type: ignore[typeddict-item]
def _choose_exp2(t):  # type: ignore[no-untyped-def]  # numba compares the signature with the implementation's
    """Chosen when a kernel is compiled, for the processor it is compiled for."""
    chosen = exp2_by_table if has_look_up() else exp2_by_polynomial
    return lambda t: chosen(t)  # noqa: PLW0108


@lane_function
def tanh_of_half_log(t: Lanes) -> Lanes:
    """``(2**t - 1) / (2**t + 1)``, which is ``tanh(t * log(2) / 2)``; absolute error below 3e-16. NaN stays NaN."""
    power = exp2(at_most(t, MOST_TANH))
    return (power - 1.0) / (power + 1.0)
