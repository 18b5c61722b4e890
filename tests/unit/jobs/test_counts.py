from hypothesis import given
from hypothesis import strategies as st

from shoal.types import Counts, Outcome

NUMBERS = st.integers(0, 10**12)
COUNTS = st.builds(
    Counts, rows=NUMBERS, scored=NUMBERS, fallback=NUMBERS, no_model=NUMBERS, invalid=NUMBERS, failed=NUMBERS
)


@given(COUNTS, COUNTS)
def test_counts_add_up_part_by_part(a, b):
    total = a + b
    for part in ("rows", *(outcome.word for outcome in Outcome)):
        assert getattr(total, part) == getattr(a, part) + getattr(b, part)
    assert Counts() + a == a


@given(COUNTS)
def test_counts_reconcile_when_every_row_met_one_outcome(counts):
    met = sum(getattr(counts, outcome.word) for outcome in Outcome)
    assert counts.outcomes == met
    assert counts.reconciles == (counts.rows == met)
