import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.scoring.tallying import settle, tally
from shoal.types import Outcome, Reason

ROWS = st.lists(
    st.tuples(st.integers(-1, 2), st.sampled_from([1.0, np.nan, np.inf, -np.inf]), st.sampled_from(Reason)), max_size=50
)


def expected(level, value, reason):
    """One row's reason and outcome, spelled out."""
    if level >= 0 and reason is Reason.NONE and not np.isfinite(value):
        reason = Reason.NOT_FINITE_ANSWER
    if reason is Reason.NOT_FINITE_ANSWER:
        return reason, Outcome.FAILED
    if reason is not Reason.NONE:
        return reason, Outcome.INVALID
    return reason, Outcome.NO_MODEL if level < 0 else Outcome.FALLBACK if level else Outcome.SCORED


@given(rows=ROWS)
def test_rows_are_settled_by_level_reason_and_answer(rows):
    levels, values, reasons = zip(*rows, strict=True) if rows else ((), (), ())
    reasons, outcomes = np.array(reasons, dtype=np.uint8), np.empty(len(rows), dtype=np.uint8)
    settle(np.array(levels, dtype=np.int8), np.array(values, dtype=np.float64), reasons, outcomes)
    assert list(zip(reasons.tolist(), outcomes.tolist(), strict=True)) == [expected(*row) for row in rows]


def test_labels_need_no_finite_number():
    reasons, outcomes = np.zeros(2, dtype=np.uint8), np.empty(2, dtype=np.uint8)
    settle(np.array([0, 1], dtype=np.int8), np.empty(0), reasons, outcomes)
    assert outcomes.tolist() == [Outcome.SCORED, Outcome.FALLBACK]


@given(rows=st.lists(st.tuples(st.integers(-1, 5), st.sampled_from(Outcome)), max_size=80), spare=st.integers(0, 300))
def test_every_row_is_tallied_once(rows, spare):
    """Few and many possible models take the two different ways through `tally`."""
    models = np.array([model for model, _ in rows], dtype=np.int64)
    outcomes = np.array([outcome for _, outcome in rows], dtype=np.uint8)
    found = zip(*(column.tolist() for column in tally(models, outcomes, 6 + spare)), strict=True)
    assert list(found) == [(*pair, rows.count(pair)) for pair in sorted(set(rows))]
