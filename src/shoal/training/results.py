"""What a training found out: a table of decisions, the figures over everything, and the models that were kept."""

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from shoal.families.contract import PackedModel
from shoal.table.facts import ModelFacts
from shoal.training.decision import Decision
from shoal.training.fitting import Verdict
from shoal.training.levels import Fitted, LevelResult
from shoal.training.plan import Plan
from shoal.training.splitting import Role
from shoal.types import Floats, Key, Level

_SCHEMA = {
    "level": pl.String, "key": pl.String, "rows": pl.Int64, "validation_rows": pl.Int64, "outliers": pl.Int64,
    "candidate": pl.String, "parameters": pl.String, "metric": pl.Float64, "fallback_metric": pl.Float64,
    "decision": pl.String, "reason": pl.String, "seconds": pl.Float64, "warning": pl.String,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One way to answer the held-out rows, and how well it does.

    Attributes
    ----------
    name : str
        What it is.
    figure : float
        The metric over all held-out rows that it answers; NaN where it answers none.
    rows : int
        How many it answers.
    """

    name: str
    figure: float
    rows: int


def report(plan: Plan, fitted: Fitted) -> pl.DataFrame:
    """One row per segment and level, finest level first: what was compared and decided.

    Columns: ``level``, ``key`` (as text), ``rows`` fitted on, ``validation_rows``, ``outliers`` dropped or clipped,
    the best ``candidate`` and its ``parameters`` (JSON), ``metric`` of its own model and of its fallback on the
    held-out rows (before any refit; null where not measured), ``decision``, ``reason``, ``seconds``, ``warning``.
    """
    rows = [row for level, result in enumerate(fitted.levels) for row in _rows(plan, level, result)]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _rows(plan: Plan, level: int, result: LevelResult) -> Iterator[tuple[object, ...]]:
    choices = plan.choices(level)
    segments = result.segments
    for number, verdict in enumerate(result.verdicts):
        choice = choices[verdict.choice] if verdict.choice >= 0 else None
        yield (
            segments.name,
            segments.texts[number],
            verdict.rows or int(segments.train[number]),
            int(segments.validation[number]),
            int(segments.outliers[number]),
            choice.name if choice else None,
            choice.parameters_text if choice else None,
            _known(verdict.figure),
            _known(verdict.fallback_figure),
            verdict.decision.value,
            verdict.reason,
            float(result.seconds[number]),
            verdict.warning,
        )


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else figure


def alternatives(plan: Plan, fitted: Fitted) -> tuple[Alternative, ...]:
    """The metric over all held-out rows: one global model, a model for every segment, and what was chosen."""
    found = []
    if plan.levels[0].level:
        if not plan.levels[-1].level:
            found.append(_alternative(plan, "one global model", fitted.levels[-1].answers))
        found.append(_alternative(plan, "a model for every segment", fitted.levels[0].answers))
    return (*found, _alternative(plan, "what was chosen", fitted.answers))


def _alternative(plan: Plan, name: str, answers: Floats) -> Alternative:
    held = (plan.division.roles == Role.VALIDATION) & ~np.isnan(answers).any(axis=1)
    figure = plan.spec.measure(truth(plan)[held], answers[held])
    return Alternative(name=name, figure=figure, rows=int(held.sum()))


def truth(plan: Plan) -> Floats:
    """The target of all rows as metrics take it; zeros where there is none."""
    if plan.spec.target is None:
        return np.zeros(plan.rows.frame.height)
    column = plan.rows.frame[plan.spec.target]
    if not plan.rows.labels:
        return column.to_numpy()
    positions = pl.Series(range(len(plan.rows.labels)), dtype=pl.Float64)
    return column.replace_strict(pl.Series(plan.rows.labels, dtype=column.dtype), positions).to_numpy()


def kept_models(
    plan: Plan, fitted: Fitted, *, run: str | None, libraries: Mapping[str, str], at: dt.datetime
) -> Iterator[tuple[Level, Key, PackedModel, ModelFacts]]:
    """The models that were kept, with what is known of them."""
    for result in fitted.levels:
        segments = result.segments
        for number, verdict in enumerate(result.verdicts):
            if verdict.packed is None:
                continue
            facts = ModelFacts(
                rows=verdict.rows,
                trained_at=at,
                metrics=_metrics(plan, verdict, int(segments.validation[number])),
                window=plan.division.window,
                libraries=libraries,
                run=run,
            )
            yield segments.level, segments.keys[number], verdict.packed, facts


def _metrics(plan: Plan, verdict: Verdict, validation_rows: int) -> dict[str, float]:
    name = plan.spec.measure.name
    figures = {name: verdict.figure, f"fallback_{name}": verdict.fallback_figure}
    known = {label: figure for label, figure in figures.items() if not math.isnan(figure)}
    return {**known, "validation_rows": float(validation_rows)}


def decisions(fitted: Fitted, levels: Sequence[int] | None = None) -> dict[Decision, int]:
    """How many segments met each decision, over some levels (all unless told)."""
    chosen = range(len(fitted.levels)) if levels is None else levels
    verdicts = [verdict.decision for level in chosen for verdict in fitted.levels[level].verdicts]
    return {decision: verdicts.count(decision) for decision in Decision}
