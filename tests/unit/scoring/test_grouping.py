import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.scoring import grouping
from shoal.scoring.grouping import UNIT_ROWS, group, units_of


@given(models=st.lists(st.integers(-2, 12), max_size=60), spare=st.integers(0, 400))
def test_groups_hold_every_row_once_in_its_order(models, spare):
    """Few and many possible models take the two different ways through `group`."""
    models = np.array(models, dtype=np.int64)
    groups = group(models, 13 + spare)
    wanted = {m: np.flatnonzero(models == m).tolist() for m in sorted(set(models.tolist())) if m >= 0}
    got = {
        int(m): groups.order[a:b].tolist()
        for m, a, b in zip(groups.models, groups.starts[:-1], groups.starts[1:], strict=True)
    }
    assert got == wanted
    assert list(got) == list(wanted)


@pytest.mark.parametrize(
    "sizes", [[1, 1, 1], [UNIT_ROWS, 1], [UNIT_ROWS + 1, 3, 5 * UNIT_ROWS], [1, 0, 7 * UNIT_ROWS - 1]]
)
def test_units_cover_a_block_and_split_large_models(sizes):
    models = np.repeat(np.arange(len(sizes)) + 100, sizes)
    groups = group(models, 200)
    units = units_of(groups, 0, len(groups.models), 100)
    assert units.dtype == np.int64
    assert units.flags.c_contiguous
    covered = np.concatenate([np.full(stop - start, model) for model, start, stop in units])
    assert covered.tolist() == (models - 100).tolist()
    assert (units[1:, 1] == units[:-1, 2]).all()
    assert (units[:, 2] - units[:, 1]).max() <= UNIT_ROWS


@given(order=st.permutations(range(20)))
def test_scatter_undoes_gather(order):
    order = np.array(order, dtype=np.int64)
    source = np.arange(20.0) * 3
    taken, back = np.empty(20), np.empty(20)
    grouping.gather(source, order, taken)
    assert taken.tolist() == source[order].tolist()
    grouping.scatter(taken, order, back)
    assert back.tolist() == source.tolist()
