"""What the numbers were measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("shoal", "numpy", "numba", "polars", "pyarrow", "scikit-learn", "ray")


def load() -> float:
    """Processes that wanted a core during the last minute, this one not yet among them at the start of a run."""
    return os.getloadavg()[0]


def describe() -> dict[str, str]:
    """CPU, cores, memory and versions, in a reader's words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        "Memory": f"{memory:.0f} GiB",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
        "Libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
