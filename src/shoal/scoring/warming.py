"""Compiling every kernel that scoring may need, before the first row comes."""

import time
from collections.abc import Callable

from shoal.families import families
from shoal.kernels.compile import all_kernels, note_complete
from shoal.scoring import grouping, tallying
from shoal.table import hashing

#: Modules that define kernels outside the families; importing them is what makes those known.
MODULES = (hashing, grouping, tallying)


def warm_kernels() -> dict[str, float]:
    """Compile every kernel, or load it from the cache.

    Returns
    -------
    dict of str to float
        Seconds that each took, by the kernel's name; near zero for one that was ready.
    """
    seconds: dict[str, float] = {}
    for name, one in families().items():
        seconds[f"family {name}"] = _timed(one.warm)
    for kernel in all_kernels():
        seconds[kernel.name] = _timed(kernel.warm)
    note_complete()
    return seconds


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
