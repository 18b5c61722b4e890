"""For which CPU kernels are compiled."""

import platform
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from shoal.scoring.warming import warm_kernels

KNOWN = {"x86_64": ["x86-64-v3", "haswell"], "aarch64": ["generic", "neoverse-n1"]}


def compiled_for(cpu):
    code = "import numba; from shoal.kernels import compile; print(numba.config.CPU_NAME)"
    return subprocess.run(
        [sys.executable, "-c", code], env={"SHOAL_CPU": cpu}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("cpu", ["zz", "x86-64-v9", "--help"])
def test_a_cpu_that_the_compiler_does_not_know_is_told(cpu):
    done = compiled_for(cpu)
    assert done.stderr.splitlines()[-1].startswith(f"shoal.errors.InvalidInput: SHOAL_CPU is {cpu!r}")


@pytest.mark.parametrize("cpu", KNOWN.get(platform.machine(), ["generic"]))
def test_a_cpu_that_it_knows_is_taken(cpu):
    assert compiled_for(cpu).stdout.strip() == cpu


def test_once_all_are_compiled_the_folder_says_so():
    marker = Path(numba.config.CACHE_DIR, "complete")
    marker.unlink(missing_ok=True)
    warm_kernels()
    assert marker.is_file()
