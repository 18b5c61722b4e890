"""The local engine: every item is answered once, and none costs more than itself."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import engine_tasks
import pytest

from shoal.engines import local
from shoal.engines.contract import Done, Failure, Lost, Work
from shoal.engines.local import LocalEngine
from shoal.errors import ShoalError


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(2) as local:
        yield local


def run(engine: LocalEngine, items: list[object], timeout_s: float = 30) -> dict[int, Done[object] | Lost]:
    answers = list(engine.run(Work(setup=engine_tasks.calculator, context=3, timeout_s=timeout_s), items))
    by_position = {answer.position: answer for answer in answers}
    assert sorted(answer.position for answer in answers) == list(range(len(items)))
    return by_position


def values(answers: dict[int, Done[object] | Lost]) -> list[object]:
    return [a.answer if isinstance(a := answers[i], Done) else a.failure for i in sorted(answers)]


def test_every_item_is_answered_once(engine: LocalEngine) -> None:
    assert values(run(engine, list(range(1000)))) == [3 * i for i in range(1000)]


def test_no_items_need_no_worker() -> None:
    engine = LocalEngine(2)
    assert run(engine, []) == {}
    assert engine._workers == []


def test_an_exception_costs_its_item(engine: LocalEngine) -> None:
    answers = run(engine, [1, "raise:too\nshort", 2, "exit:3", "lambda:"], timeout_s=120)
    assert values(answers)[:4] == [3, Failure.RAISED, 6, Failure.RAISED]
    reasons = [a.reason for _, a in sorted(answers.items()) if isinstance(a, Lost)]  # they come as they are done
    assert reasons[:2] == ["ValueError: too short", "SystemExit: 3"]
    unpicklable = answers[4]
    assert isinstance(unpicklable, Lost)
    assert "lambda" in unpicklable.reason


def test_a_killed_worker_costs_only_the_item_it_was_at(engine: LocalEngine) -> None:
    items: list[object] = [*range(50), "die:", *range(50)]
    answers = run(engine, items)
    assert values(answers) == [*(3 * i for i in range(50)), Failure.DIED, *(3 * i for i in range(50))]
    lost = answers[50]
    assert isinstance(lost, Lost)
    assert "SIGKILL" in lost.reason


def test_an_item_is_tried_again_since_another_may_have_used_up_the_memory(engine: LocalEngine, tmp_path: Path) -> None:
    assert values(run(engine, [1, f"die_once:{tmp_path / 'died'}", 2])) == [3, "survived", 6]


def test_an_item_that_hangs_is_given_up(engine: LocalEngine) -> None:
    timeout_s = 5.0  # a worker that a busy machine keeps waiting does not hang
    answers = run(engine, [*range(5), "sleep:120", *range(20)], timeout_s=timeout_s)
    assert [i for i, a in answers.items() if isinstance(a, Lost)] == [5]
    lost = answers[5]
    assert isinstance(lost, Lost)
    assert lost.failure is Failure.TIMED_OUT
    assert timeout_s <= lost.seconds < timeout_s + 4


def test_whoever_takes_answers_may_take_longer_than_an_item(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker has said while nobody listened is not late."""
    now, ahead_s = time.monotonic, 0.0
    monkeypatch.setattr(local.time, "monotonic", lambda: now() + ahead_s)
    answers: list[Done[object] | Lost] = []
    work = Work(setup=engine_tasks.calculator, context=3, timeout_s=1000)
    for answer in engine.run(work, ["sleep:0.02"] * 40):  # long enough for both workers to have some
        answers.append(answer)
        for worker in engine._workers:
            while worker.todo and not worker.connection.poll():
                time.sleep(0.001)
        ahead_s += 2000
    assert all(isinstance(answer, Done) for answer in answers)
    assert len(answers) == 40


def test_a_setup_that_fails_is_told_at_once(engine: LocalEngine) -> None:
    with pytest.raises(ShoalError, match="no module named tomorrow"):
        list(engine.run(Work(setup=engine_tasks.broken, context=None, timeout_s=5), [1]))
    assert values(run(engine, [2])) == [6]


def test_leaving_early_stops_the_workers(tmp_path: Path) -> None:
    engine = LocalEngine(2)
    file = tmp_path / "pid"
    answers = engine.run(Work(setup=engine_tasks.calculator, context=1, timeout_s=60), [1, f"pid:{file}", *range(5)])
    for _ in range(6):
        next(answers)
    while not (file.exists() and file.read_text()):
        time.sleep(0.02)
    pid = int(file.read_text())
    answers.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert engine._workers == []


def test_workers_compute_with_one_thread_and_print_to_standard_error(
    engine: LocalEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"]
    assert values(run(engine, [f"environment:{name}" for name in names])) == ["1"] * 4
    with LocalEngine(1) as fresh:
        run(fresh, ["print:hello"])
    assert "hello" not in capfd.readouterr().out


def test_a_worker_killed_between_runs_is_replaced() -> None:
    with LocalEngine(1) as engine:
        run(engine, [1])
        engine._workers[0].process.kill()
        engine._workers[0].process.wait()
        assert values(run(engine, [2])) == [6]
