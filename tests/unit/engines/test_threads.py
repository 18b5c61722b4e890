import os
import threading
import warnings

import pytest

from shoal.engines.threads import Threads, shared_threads


@pytest.mark.parametrize("total", [0, 1, 99, 100, 101, 1000, 12_345])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_ranges_cover_every_item_once(total, count):
    seen, lock = [], threading.Lock()

    def task(lo, hi):
        with lock:
            seen.extend(range(lo, hi))

    Threads(count).over(total, task, grain=50)
    assert sorted(seen) == list(range(total))


def test_small_work_stays_on_the_calling_thread():
    names = []
    Threads(4).over(10, lambda lo, hi: names.append(threading.current_thread().name))
    assert names == [threading.current_thread().name]


def test_an_error_is_raised_after_all_tasks_have_ended():
    ended, lock = [], threading.Lock()

    def task(lo, hi):
        if lo == 0:
            raise ValueError("first range")
        with lock:
            ended.append((lo, hi))

    with pytest.raises(ValueError, match="first range"):
        Threads(2).over(100, task, grain=10)
    assert len(ended) == 7


def test_a_forked_child_makes_its_own_pool():
    threads = shared_threads()
    threads.over(100, lambda lo, hi: None, grain=1)
    with warnings.catch_warnings():
        # From 3.12 on Python warns that threads do not survive a fork, which is what this test is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        worked = []
        shared_threads().over(100, lambda lo, hi: worked.append(hi - lo), grain=1)
        os._exit(0 if sum(worked) == 100 and shared_threads() is not threads else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
