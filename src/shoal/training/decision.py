"""Whether a segment keeps a model of its own, and why."""

import enum
import math
from dataclasses import dataclass

from shoal.training.metrics import Metric


class Decision(enum.StrEnum):
    """What became of a segment's own model."""

    KEPT = "kept"
    FALLBACK = "fallback"
    FAILED = "failed"
    TOO_FEW_ROWS = "too_few_rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepRule:
    """When a model is kept.

    Attributes
    ----------
    metric : Metric
        What decides.
    always : bool
        Keep without being better.
    margin : float
        By how much it has to be better, see :meth:`shoal.training.metrics.Metric.gain`.
    minimum_validation_rows : int
        Held-out rows below which a comparison counts for nothing.
    """

    metric: Metric
    always: bool
    margin: float
    minimum_validation_rows: int

    def decide(self, own: float, fallback: float | None, validation_rows: int) -> tuple[Decision, str]:
        """Decide on one segment.

        Parameters
        ----------
        own, fallback : float
            What the metric says of its own model and of its fallback, over the same held-out rows; NaN where it is
            not defined. None where there is no fallback.
        validation_rows : int
            How many those are.

        Returns
        -------
        decision : Decision
            ``kept`` or ``fallback``.
        reason : str
            For people.
        """
        if self.always:
            return Decision.KEPT, "kept without comparison"
        if fallback is None:
            return Decision.KEPT, "it has no fallback"
        if validation_rows < self.minimum_validation_rows:
            return Decision.FALLBACK, f"only {validation_rows} held-out rows, {self.minimum_validation_rows} are needed"
        if math.isnan(own) or math.isnan(fallback):
            return Decision.FALLBACK, f"{self.metric.name} is not defined on its held-out rows"
        gain = self.metric.gain(own, fallback)
        figures = f"{self.metric.name} {own:.6g} against {fallback:.6g}"
        if gain > 0 and gain >= self.margin:
            return Decision.KEPT, figures
        return Decision.FALLBACK, f"{figures}: {self._short_of(gain)}"

    def _short_of(self, gain: float) -> str:
        if gain <= 0:
            return "no better"
        margin = f"{self.margin:g}" if self.metric.more_is_better else f"{self.margin:.3g} of it"
        return f"better, but by less than {margin}"
