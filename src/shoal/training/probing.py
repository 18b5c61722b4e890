"""Trying every candidate on a few rows before the long work: what cannot be packed is refused with its part's name."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shoal.engines.contract import Done, Engine, Work
from shoal.errors import InvalidSpec, UnsupportedEstimator
from shoal.families import pack
from shoal.training.fitting import Assignment, Bench, Segment
from shoal.training.splitting import Role
from shoal.types import Feature, FeatureKind, Integers

_ROWS = 100
ENCODING = (
    "{columns: [{features: texts, steps: [{sklearn.preprocessing.OneHotEncoder: {handle_unknown: ignore}}]}, "
    "{features: numbers, steps: passthrough}]}"
)
"""A first step that makes numbers of texts, as a spec has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of one choice.

    Attributes
    ----------
    refused : str
        Why no segment could ever use it; empty if one could.
    failed : str
        Why it could not be fitted on these rows; other rows may do.
    """

    refused: str = ""
    failed: str = ""


def probe(assignment: Assignment, engine: Engine, timeout_s: float) -> tuple[str, ...]:
    """Fit, measure and pack every choice once, on a few rows of the whole input.

    Returns
    -------
    tuple of str
        What to warn of: choices that could not be fitted on these rows.

    Raises
    ------
    InvalidSpec
        A choice can never be used; names the candidate and the part that stops it.
    """
    work = Work(setup=try_choices, context=assignment, timeout_s=timeout_s)
    findings: dict[int, Finding] = {}
    for news in engine.run(work, list(range(len(assignment.choices)))):
        findings[news.position] = news.answer if isinstance(news, Done) else Finding(failed=news.reason)
    for number, choice in enumerate(assignment.choices):
        if findings[number].refused:
            raise InvalidSpec(f"candidate {choice}: {findings[number].refused}")
    return tuple(_warnings(assignment, findings))


def _warnings(assignment: Assignment, findings: dict[int, Finding]) -> Iterator[str]:
    for number, choice in enumerate(assignment.choices):
        if findings[number].failed:
            yield f"candidate {choice} could not be fitted on a sample of the rows: {findings[number].failed}"


def try_choices(assignment: Assignment) -> Callable[[int], Finding]:
    """Set a worker up; see :class:`shoal.engines.contract.Work`."""
    bench = Bench(assignment, careful=True)
    rows = _sample(bench)
    segment = Segment(text="", start=0, stop=len(rows))

    def attempt(choice: int) -> Finding:
        try:
            estimator = bench.fit(choice, rows, segment)
            bench.answer(estimator, bench.rows.measuring.take(rows))
            pack(estimator, bench.names)
        except UnsupportedEstimator as error:
            return Finding(refused=str(error))
        except Exception as error:  # noqa: BLE001 - told apart here, and told to the user
            advice = _advice_on_texts(error, assignment.features)
            never = isinstance(error, TypeError) or type(error).__name__ == "InvalidParameterError" or advice
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{advice}"
            return Finding(refused=text) if never else Finding(failed=text)
        return Finding()

    return attempt


def _advice_on_texts(error: Exception, features: Sequence[Feature]) -> str:
    """What to do when an estimator was given texts and takes only numbers; empty where that is not what went wrong."""
    texts = [feature.name for feature in features if feature.kind is FeatureKind.CATEGORY]
    if not texts or "could not convert string" not in str(error):
        return ""
    return (
        f"; {', '.join(map(repr, texts))} holds texts, and this takes only numbers: begin its steps with {ENCODING}, "
        "or leave the texts out of 'features'"
    )


def _sample(bench: Bench) -> Integers:
    """Rows spread over all training rows, some of every label."""
    rows = np.flatnonzero((bench.rows.roles == Role.TRAIN) & ~bench.rows.dropped)
    if bench.labels is None:
        return _spread(rows, _ROWS)
    truth = bench.rows.fitting.truth[rows]
    each = max(5, _ROWS // len(bench.labels))
    return np.sort(np.concatenate([_spread(rows[truth == label], each) for label in range(len(bench.labels))]))


def _spread(rows: Integers, most: int) -> Integers:
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=np.int64)]


def for_all_levels(assignment: Assignment, assignments: list[Assignment]) -> Assignment:
    """An assignment with the choices of all levels, each once."""
    choices = {str(choice): choice for each in assignments for choice in each.choices}
    return replace(assignment, choices=tuple(choices.values()))
