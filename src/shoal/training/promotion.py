"""Whether a new fleet does better than the one that an alias names now."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl

from shoal.errors import InvalidInput
from shoal.fleet import Fleet
from shoal.training.levels import Fitted
from shoal.training.metrics import Answer
from shoal.training.plan import Plan
from shoal.training.results import truth
from shoal.training.splitting import Role, span
from shoal.types import Floats, Integers, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A new fleet beside the present one, on the held-out rows that both answer.

    Attributes
    ----------
    champion : int or None
        The version that the alias names; None where it names none.
    figure, champion_figure : float
        The metric of the new fleet, before any refit, and of the champion. NaN where not measured.
    rows : int
        Held-out rows that both answer.
    better : bool
        Whether the new fleet should take over.
    reason : str
        Why.
    promoted : bool
        Whether it did.
    """

    champion: int | None
    figure: float = float("nan")
    champion_figure: float = float("nan")
    rows: int = 0
    better: bool
    reason: str
    promoted: bool = False


def compare_with_champion(plan: Plan, fitted: Fitted, champion: Fleet | None) -> Comparison:
    """Let a champion answer the held-out rows, and compare.

    The new models' answers are those from before a refit, since a refit has seen the rows. A champion that was trained
    on them as well has an advantage, which is said in the reason.

    Parameters
    ----------
    plan : Plan
        The training.
    fitted : Fitted
        Its models' answers.
    champion : Fleet or None
        The present fleet.
    """
    if champion is None:
        return Comparison(champion=None, better=True, reason="there is no champion yet")
    held = np.flatnonzero(plan.division.roles == Role.VALIDATION)
    try:
        theirs = fleet_answers(plan, champion, held)
    except InvalidInput as error:
        reason = f"the champion cannot answer the held-out rows ({error})"
        return Comparison(champion=champion.version, better=False, reason=reason)
    ours = fitted.answers[held]
    answered, they_answered = ~np.isnan(ours).any(axis=1), ~np.isnan(theirs).any(axis=1)
    both = answered & they_answered
    known, metric = truth(plan)[held[both]], plan.spec.measure
    figure, other = metric(known, ours[both]), metric(known, theirs[both])
    lost = int(they_answered.sum() - answered.sum())
    better = metric.gain(figure, other) > 0 and lost <= 0
    reason = f"{metric.name} {figure:.6g} against {other:.6g} on {int(both.sum()):,} held-out rows"
    if lost > 0:
        reason += f", but it answers {lost:,} rows fewer"
    if _has_seen(plan, champion):
        reason += "; the champion was trained on some of them"
    return Comparison(
        champion=champion.version, figure=figure, champion_figure=other, rows=int(both.sum()), better=better,
        reason=reason,
    )  # fmt: skip


def fleet_answers(plan: Plan, fleet: Fleet, rows: Integers) -> Floats:
    """What a fleet answers to some rows, as metrics take it; NaN where it does not answer.

    Raises
    ------
    InvalidInput
        The rows lack a column that the fleet needs, or it predicts something else.
    """
    if fleet.task is not plan.spec.task:
        raise InvalidInput(f"it does {fleet.task}, the training {plan.spec.task}")
    predicted = fleet.predict(plan.rows.frame[rows])
    if plan.spec.task is not Task.CLASSIFICATION:
        column = "score" if plan.spec.task is Task.ANOMALY else "prediction"
        return predicted[column].cast(pl.Float64).to_numpy().reshape(-1, 1)
    place = {label: position for position, label in enumerate(plan.rows.labels)}
    if plan.spec.measure.answer is Answer.LABELS:
        labels = [place.get(label, -1) if label is not None else np.nan for label in predicted["prediction"].to_list()]
        return np.array(labels, dtype=np.float64).reshape(-1, 1)
    return _shares(predicted["probability"], [place.get(label, -1) for label in fleet.labels], len(place))


def _shares(column: pl.Series, places: list[int], width: int) -> Floats:
    """Probabilities by the training's labels; 0 for a label that a model never saw."""
    shares = np.array([column.arr.get(position).to_numpy() for position in range(len(places))]).T
    answered = ~np.isnan(shares).all(axis=1)
    answers = np.full((len(column), width), np.nan)
    answers[answered] = 0.0
    for position, place in enumerate(places):
        if place >= 0:
            answers[answered, place] = np.nan_to_num(shares[answered, position])
    return answers


def _has_seen(plan: Plan, champion: Fleet) -> bool:
    """Whether the champion's training reached into the held-out window, as far as its models tell."""
    if plan.spec.split.time is None:
        return False
    latest = champion.models["window_stop"].max()
    held = plan.rows.frame[plan.spec.split.time].filter(pl.Series(plan.division.roles == Role.VALIDATION))
    return isinstance(latest, dt.datetime) and latest >= span(held)[0]
