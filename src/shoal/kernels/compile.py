"""How kernels are compiled: explicit signatures, no GIL, no threads, a private cache on disk.

A kernel's signature is given in full so that nothing compiles because of a caller's array types. Compilation (or
loading from the cache, 0.1 to 0.6 s) happens at the first call or at :meth:`Kernel.warm`, not at import.

``FAST`` leaves out ``nnan`` and ``ninf``: NaN must stay NaN. It also leaves out ``reassoc``, so that a row's answer
does not depend on how many neighbours it has; a kernel that wants a vectorised sum spells its accumulators out.
"""

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
from numba import types as nt
from numba.core.caching import UserProvidedCacheLocator

from shoal.errors import InvalidInput

FAST = {"contract", "nsz", "arcp"}

Function = TypeVar("Function", bound=Callable[..., Any])


def array(dtype: nt.Type, dimensions: int, *, writable: bool = False) -> nt.Array:
    """The type of a C-contiguous array argument; read-only arguments take mapped and ordinary arrays alike."""
    return nt.Array(dtype, dimensions, "C", readonly=not writable)


F64_1, F64_2, F64_3 = (array(nt.float64, d) for d in (1, 2, 3))
I64_1, I64_2 = (array(nt.int64, d) for d in (1, 2))
I32_1, I32_2 = (array(nt.int32, d) for d in (1, 2))
U8_1 = array(nt.uint8, 1)
U64_1, U64_2 = (array(nt.uint64, d) for d in (1, 2))
I64 = nt.int64

#: The arguments every model kernel starts with: X, units, lo, hi, program, transform, scratch, first.
ROWS = (F64_2, I64_2, I64, I64, I32_2, F64_2, I64, I64)
#: And ends with: values, labels, probabilities, reasons, culprits.
ANSWERS = (
    array(nt.float64, 1, writable=True),
    array(nt.int32, 1, writable=True),
    array(nt.float64, 2, writable=True),
    array(nt.uint8, 1, writable=True),
    array(nt.int16, 1, writable=True),
)


_PACKAGE = Path(__file__).parents[1]
_LEVELS = re.compile("x86-64(-v[234])?")
_ASK = (
    "import sys, llvmlite.binding as llvm; llvm.initialize_native_target(); "
    "llvm.Target.from_default_triple().create_target_machine(cpu=sys.argv[1])"
)


_COMPLETE = "complete"
"""In a folder of compiled kernels: none is missing."""


def use_cache_below(folder: Path) -> None:
    """Keep compiled kernels in the package's own folder, or below ``folder`` where that cannot be written.

    The cache is a pickle, so nobody else may write it: below ``folder`` it is private (0700); in the package it is as
    its code is. Where all kernels were compiled into a package that cannot be written, as in an image, they are read
    there; where neither can be written, whatever was compiled before. The folder's name holds a digest of the kernels'
    sources, for Numba itself would not notice that a function which a kernel calls has changed in another file, and of
    the CPU. ``NUMBA_CACHE_DIR`` goes first.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    name = f"kernels-{_digest()}"
    own, other = _PACKAGE / "kernels" / "__pycache__" / name, folder / name
    if _may_keep(own, 0o755):
        _use(own)
    elif (own / _COMPLETE).is_file() and _is_trusted(own):
        _use(own, CompiledBefore)
    elif _may_keep(other, 0o700):
        _use(other)
    elif readable := [place for place in (own, other) if _is_trusted(place)]:
        _use(readable[0], CompiledBefore)


def note_complete() -> None:
    """Say, in the folder where compiled kernels are kept, that all are there; nothing where none can be kept."""
    place = vars(numba.config)["CACHE_DIR"]
    if not os.environ.get("NUMBA_CACHE_DIR") and place:
        with contextlib.suppress(OSError):
            Path(place, _COMPLETE).touch()


def _may_keep(place: Path, mode: int) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError:
        return False
    return os.access(place, os.W_OK)


def _use(place: Path, locator: type | None = None) -> None:
    """Have Numba keep and find compiled kernels there; it reads that when a kernel is first compiled."""
    vars(numba.config)["CACHE_DIR"] = str(place)
    if locator is not None:
        vars(numba.config)["CACHE_LOCATOR_CLASSES"] = f"{__name__}.{locator.__name__}"


def _is_trusted(place: Path) -> bool:
    """Whether a folder can be read, and written only by those who could change the package's code as well."""
    try:
        found, code = place.stat(), _PACKAGE.stat()
    except OSError:
        return False
    ours = found.st_uid in (0, os.geteuid(), code.st_uid) and not found.st_mode & 0o022
    return ours and os.access(place, os.R_OK | os.X_OK)


class CompiledBefore(UserProvidedCacheLocator):
    """Finds compiled kernels in a folder that cannot be written; Numba's own locators want to write there."""

    def ensure_cache_path(self) -> None:
        """Look whether there is anything.

        Raises
        ------
        OSError
            There is not: the function is compiled for this process only.
        """
        place = str(self.get_cache_path())  # type: ignore[no-untyped-call]
        if not Path(place).is_dir():
            raise FileNotFoundError(place)


def use_cpu(name: str) -> None:
    """Compile for a kind of CPU, e.g. ``x86-64-v3``, not for this machine's; the cache then fits all that have it.

    Raises
    ------
    InvalidInput
        LLVM knows no such CPU. It says so in words only, and ends the process when it compiles; so a child is asked.
    """
    if not (platform.machine() == "x86_64" and _LEVELS.fullmatch(name)):
        asked = subprocess.run([sys.executable, "-c", _ASK, name], capture_output=True, text=True, check=False)  # noqa: S603
        if asked.returncode or "not a recognized processor" in asked.stderr:
            raise InvalidInput(f"SHOAL_CPU is {name!r}, and the compiler knows no such CPU here; write e.g. x86-64-v3")
    vars(numba.config).update(CPU_NAME=name, CPU_FEATURES="")


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    cpu, features = (vars(numba.config)[name] for name in ("CPU_NAME", "CPU_FEATURES"))
    features = llvm.get_host_cpu_features().flatten() if features is None else features
    digest.update(f"{cpu or llvm.get_host_cpu_name()} {features}".encode())
    others = ("table/hashing.py", "scoring/grouping.py", "scoring/tallying.py")
    for path in sorted((*_PACKAGE.glob("kernels/*.py"), *(_PACKAGE / name for name in others))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_kernels: list["Kernel"] = []


def all_kernels() -> Sequence["Kernel"]:
    """Every kernel of the modules that were imported so far."""
    return tuple(_kernels)


class Kernel:
    """A function that compiles for one signature, once, when it is first needed."""

    def __init__(self, function: Callable[..., Any], signature: Any, options: dict[str, Any]) -> None:
        self.function = function
        self.signature = signature
        self.options = options
        self._compiled: Callable[..., Any] | None = None
        self._lock = threading.Lock()
        _kernels.append(self)

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return f"{self.function.__module__.removeprefix('shoal.')}.{self.function.__name__}"

    def warm(self) -> Callable[..., Any]:
        """Compile, or load from the cache, and return the compiled function."""
        with self._lock:
            if self._compiled is None:
                try:
                    self._compiled = numba.njit(self.signature, cache=True, **self.options)(self.function)
                except (RuntimeError, OSError) as error:
                    if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                        raise
                    # It was not compiled before, and nothing can be written: compile for this process only.
                    self._compiled = numba.njit(self.signature, **self.options)(self.function)
            return self._compiled

    def __call__(self, *arguments: Any) -> Any:
        """Run the compiled function."""
        return (self._compiled or self.warm())(*arguments)


def kernel(*arguments: nt.Type, returns: nt.Type = nt.void) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a function a :class:`Kernel` for these argument types."""
    options = {"nogil": True, "fastmath": FAST, "error_model": "numpy", "boundscheck": False}
    return lambda function: Kernel(function, returns(*arguments), options)


#: How functions are compiled that never allocate, and leave the counting of references to their callers.
BORROWING = {"nogil": True, "error_model": "numpy", "boundscheck": False, "_nrt": False}


def device(function: Function) -> Function:
    """A function that kernels call; it is compiled into each of them. It may not allocate: no references are counted.

    Arrays are borrowed from the kernel; two atomic operations per array and call would be dearer than most calls.
    """
    options: dict[str, Any] = {**BORROWING, "fastmath": FAST}
    return cast("Function", numba.njit(**options)(function))


def exact(function: Function) -> Function:
    """A :func:`device` function with IEEE arithmetic to the letter: nothing contracted, no reciprocals.

    ``fastmath=False`` is spelled out because a function that does not say is compiled with its caller's flags.
    """
    options: dict[str, Any] = {**BORROWING, "fastmath": False}
    return cast("Function", numba.njit(**options)(function))


if os.environ.get("SHOAL_CPU"):
    use_cpu(os.environ["SHOAL_CPU"])
use_cache_below(Path(os.environ.get("SHOAL_HOME", ".shoal")) / "cache")
