"""Where a training's models come from: input, code, libraries, parameters."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator, Sequence

from shoal.registry import Lineage
from shoal.training.plan import Plan
from shoal.training.spec import Candidate

_ALWAYS = ("numpy", "polars", "scikit-learn", "scipy", "shoal")
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def lineage(plan: Plan, run: str | None) -> Lineage:
    """Describe a training.

    Parameters
    ----------
    plan : Plan
        Its input and its spec.
    run : str or None
        The run that it is.
    """
    return Lineage(
        inputs=plan.rows.inputs,
        code_version=code_version(),
        parameters=plan.spec.document(),
        libraries=libraries(plan.spec.candidates),
        run=run,
    )


def libraries(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Versions of Python, of what always takes part, and of the packages that the candidates come from."""
    names = {*_ALWAYS, *(_DISTRIBUTIONS.get(name, name) for c in candidates for name in _packages(c.steps))}
    versions = {name: version for name in sorted(names) if (version := _version(name)) is not None}
    return {"python": platform.python_version(), **versions}


def code_version() -> str:
    """Shoal's version, and the commit of the working folder where that is one of Git."""
    shoal = f"shoal {_version('shoal') or 'unknown'}"
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return shoal
    changed = " with changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{shoal}, git {commit}{changed}"


def _packages(value: object) -> Iterator[str]:
    """The first part of every import path in the steps of a candidate."""
    if isinstance(value, str):
        if "." in value:
            yield value.partition(".")[0]
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _packages(name)
            yield from _packages(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _packages(part)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    """What Git says of the working folder; empty where there is no Git or no repository."""
    try:
        answer = subprocess.run(  # noqa: S603 - fixed words
            ["git", *words],  # noqa: S607 - the user's own Git
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
