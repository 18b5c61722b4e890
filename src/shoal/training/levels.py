"""The long work: the models of every level, the coarsest first, since the finer ones have to beat them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.engines.contract import Done, Engine, Work
from shoal.telemetry.progress import Progress
from shoal.training import handover, probing
from shoal.training.decision import Decision
from shoal.training.fitting import Segment, Verdict, fit_segments
from shoal.training.plan import Plan
from shoal.training.segments import Segments
from shoal.training.splitting import Role, Roles
from shoal.types import Floats, Integers

TASK = "Training"


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelResult:
    """What became of the segments of one level.

    Attributes
    ----------
    segments : Segments
        The segments.
    verdicts : tuple of Verdict
        One each.
    seconds : ndarray of float64, shape (segments,)
        How long each took.
    answers : ndarray of float64, shape (rows, width)
        What the best models of this level alone answer to held-out rows, kept or not; NaN where there is none.
    """

    segments: Segments
    verdicts: tuple[Verdict, ...]
    seconds: Floats
    answers: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """All levels.

    Attributes
    ----------
    levels : tuple of LevelResult
        Finest first.
    answers : ndarray of float64, shape (rows, width)
        What the models that were kept answer to held-out rows, each segment's nearest; NaN where none does.
    warnings : tuple of str
        What the user should know.
    """

    levels: tuple[LevelResult, ...]
    answers: Floats
    warnings: tuple[str, ...]


def fit_levels(plan: Plan, folder: Path, engine: Engine, progress: Progress) -> Fitted:
    """Fit every level of a plan.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    folder : Path
        An empty folder for the rows; left to the caller to remove.
    engine : Engine
        Where to fit.
    progress : Progress
        Told of every segment.

    Raises
    ------
    InvalidSpec
        A candidate cannot be packed; names the part that stops it.
    StorageError
        The disk is full.
    """
    _hand_over(plan, folder)
    assignments = [plan.assignment(level, folder) for level in range(len(plan.levels))]
    warnings = probing.probe(probing.for_all_levels(assignments[0], assignments), engine, plan.spec.timeout_s)
    shared = handover.read(folder, writable_answers=True)
    results: list[LevelResult] = []
    progress.start(TASK, sum(plan.eligible(level) for level in range(len(plan.levels))))
    try:
        for level in reversed(range(len(plan.levels))):
            results.insert(0, _fit_level(plan, level, folder, engine, progress))
            _take_over(results[0], shared.answers, plan.division.roles)
    finally:
        progress.finish(TASK)
    return Fitted(levels=tuple(results), answers=np.array(shared.answers), warnings=warnings)


def _hand_over(plan: Plan, folder: Path) -> None:
    handover.write(
        folder,
        plan.rows.frame,
        plan.cleaned,
        plan.division.roles,
        features=plan.rows.features,
        target=plan.spec.target,
        labels=plan.rows.labels,
        width=plan.width,
    )
    for level, segments in enumerate(plan.levels):
        handover.write_order(folder, level, segments)


def _fit_level(plan: Plan, level: int, folder: Path, engine: Engine, progress: Progress) -> LevelResult:
    segments = plan.levels[level]
    verdicts = [_too_few_rows(plan, int(rows)) for rows in segments.train]
    seconds = np.zeros(len(segments))
    answers = np.full((len(segments.order), plan.width), np.nan)
    chosen = _largest_first(segments, plan.spec.minimum_rows)
    work = Work(
        setup=fit_segments, context=plan.assignment(level, folder), timeout_s=plan.spec.timeout_s
    )  # fmt: skip
    for news in engine.run(work, [_segment(segments, int(number)) for number in chosen]):
        number = int(chosen[news.position])
        verdict = (
            news.answer if isinstance(news, Done) else Verdict(decision=Decision.FAILED, reason=news.reason)
        )  # fmt: skip
        verdicts[number], seconds[number] = verdict, news.seconds
        if verdict.answers is not None:
            answers[_held(segments, number, plan.division.roles)] = verdict.answers
        progress.advance(TASK)
    return LevelResult(segments=segments, verdicts=tuple(verdicts), seconds=seconds, answers=answers)


def _too_few_rows(plan: Plan, rows: int) -> Verdict:
    reason = f"{rows} training rows, {plan.spec.minimum_rows} are needed"
    return Verdict(decision=Decision.TOO_FEW_ROWS, reason=reason, rows=rows)


def _largest_first(segments: Segments, minimum_rows: int) -> Integers:
    """Segments with enough rows; the largest first, so that none is left over at the end while others wait."""
    eligible = np.flatnonzero(segments.train >= minimum_rows)
    return eligible[np.argsort(-segments.train[eligible], kind="stable")]


def _segment(segments: Segments, number: int) -> Segment:
    start, stop = segments.starts[number : number + 2]
    return Segment(text=segments.texts[number], start=int(start), stop=int(stop))


def _held(segments: Segments, number: int, roles: Roles) -> Integers:
    mine = segments.order[segments.starts[number] : segments.starts[number + 1]]
    held: Integers = mine[roles[mine] == Role.VALIDATION]
    return held


def _kept(result: LevelResult) -> Iterator[int]:
    return (number for number, verdict in enumerate(result.verdicts) if verdict.decision is Decision.KEPT)


def _take_over(result: LevelResult, answers: Floats, roles: Roles) -> None:
    """From now on, held-out rows of segments that kept their model are answered by it."""
    for number in _kept(result):
        rows = _held(result.segments, number, roles)
        answers[rows] = result.answers[rows]
