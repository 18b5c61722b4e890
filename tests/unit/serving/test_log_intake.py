"""What of the prediction log is converted where it is offered, and what is left to its thread."""

import functools

import msgspec
import numpy as np
import pytest

from shoal.serving.log_intake import FEWEST_ROWS, MOST_CELLS, SMALL_BYTES, SMALL_CELLS, TOGETHER, Intake
from tests.unit.serving.fleets import FLEETS, rows_for
from tests.unit.serving.logged import Asked, pieces

AT_S = 1_800_000_000.0


@functools.cache
def snapshot(kind, version):
    return Asked(FLEETS[kind](), version=version)


def made(count, *, kind="regression", size=1, version=1, at_s=AT_S):
    """Requests of so many rows each."""
    asked = snapshot(kind, version)
    frame = rows_for(asked.fleet, np.random.default_rng(1), count * size)
    return asked.logged(pieces(frame, size), at_s=at_s)


def put(intake, requests):
    for one in requests:
        assert intake.put(one)


def ids(requests):
    return [one.request_id for one in requests]


def converted(intake):
    """The numbers of rows, and of requests, of each frame."""
    return [(ready.frame.height, ready.requests) for ready, _ in intake.ready]


def test_small_ones_are_converted_as_soon_as_enough_came():
    intake, requests = Intake(), made(2 * TOGETHER - 1)
    put(intake, requests)
    assert converted(intake) == [(TOGETHER, TOGETHER)]
    assert not intake.queue
    [(ready, size_bytes)] = intake.ready
    assert ready.frame["request_id"].to_list() == ids(requests[:TOGETHER])
    assert size_bytes == sum(one.size_bytes for one in requests[:TOGETHER])
    put(intake, requests[-1:])
    assert converted(intake) == [(TOGETHER, TOGETHER)] * 2


def test_elements_count_not_requests():
    """Five rows of a few columns each are as much work as one row of many."""
    one = made(1, size=5)[0]
    fitting = -(-MOST_CELLS // (5 * one.schema.cells))
    assert fitting < TOGETHER
    intake = Intake()
    put(intake, [one] * fitting)
    assert converted(intake) == [(5 * fitting, fitting)]


@pytest.mark.parametrize("kind", FLEETS)
def test_the_elements_of_a_row_are_those_of_its_columns(kind):
    one = made(1, kind=kind)[0]
    intake = Intake()
    put(intake, [one] * TOGETHER)
    frame = intake.ready[0][0].frame
    elements = [len(value) if isinstance(value, list) else 1 for value in frame.row(0)]
    assert one.schema.cells == sum(elements) + len({"fleet", "date"})


def test_large_ones_are_left_to_the_thread_and_small_ones_beside_them_are_not():
    intake, small = Intake(), made(TOGETHER)
    rows = SMALL_CELLS // small[0].schema.cells
    [fits], [large] = made(1, size=rows), made(1, size=rows + 1)
    long = msgspec.structs.replace(small[0], rows=msgspec.structs.replace(small[0].rows, size_bytes=SMALL_BYTES))
    put(intake, [*small[:50], large, fits, long, *small[50:]])
    assert list(intake.queue) == [large, long]
    assert sum(requests for _, requests in converted(intake)) + 1 >= TOGETHER


def test_files_of_few_rows_are_left_to_the_thread():
    """As where many fleets are asked in turns: a frame of one row costs as much as one of many."""
    intake = Intake()
    many, enough, few = TOGETHER - 2 * FEWEST_ROWS + 1, FEWEST_ROWS, FEWEST_ROWS - 1
    fewer = made(few, version=3)
    put(intake, [*made(many, version=1), *made(enough, version=2), *fewer])
    assert converted(intake) == [(many, many), (enough, enough)]
    assert list(intake.queue) == fewer


def test_days_are_files_of_their_own():
    midnight = 86_400.0 * 21_000
    intake = Intake()
    put(intake, [*made(TOGETHER // 2, at_s=midnight - 0.01), *made(TOGETHER // 2, at_s=midnight)])
    assert [ready.file[1] for ready, _ in intake.ready] == [20_999, 21_000]


def test_the_first_does_not_wait_for_long_where_others_come():
    intake = Intake()
    put(intake, made(FEWEST_ROWS - 1))
    put(intake, made(1, at_s=AT_S + 0.1))
    assert not intake.ready
    put(intake, made(1, at_s=AT_S + 0.3))
    assert converted(intake) == [(FEWEST_ROWS + 1, FEWEST_ROWS + 1)]


def test_what_has_waited_since_the_thread_looked_is_left_to_it():
    intake, requests = Intake(), made(3)
    seen = intake.settle(None)
    seen = intake.settle(seen)
    put(intake, requests)
    assert intake.settle(None) == requests  # as another look: they are new to it
    assert not intake.queue
    assert list(intake.settle(intake.settle(None))) == []
    assert list(intake.queue) == requests


def test_none_is_taken_after_the_end():
    intake, requests = Intake(), made(4)
    put(intake, requests[:3])
    intake.close()
    assert not intake.put(requests[3])
    assert list(intake.queue) == requests[:3]
