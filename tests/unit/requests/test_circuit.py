"""When a neighbour is left alone, and when it is tried again."""

from shoal.requests.circuit import Circuit


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_opens_after_failures_in_a_row_and_lets_one_try() -> None:
    clock = Clock()
    circuit = Circuit(failures=3, first_wait_s=1, longest_wait_s=4, clock=clock)
    for _ in range(2):
        circuit.failed()
    circuit.succeeded()
    for _ in range(2):
        circuit.failed()
        assert circuit.allows()
    circuit.failed()
    assert circuit.is_open
    assert not circuit.allows()
    clock.now_s = 1.0
    assert [circuit.allows(), circuit.allows()] == [True, False]
    circuit.succeeded()
    assert not circuit.is_open
    assert circuit.allows()


def test_it_waits_longer_and_longer_up_to_a_limit() -> None:
    clock = Clock()
    circuit = Circuit(failures=1, first_wait_s=1, longest_wait_s=4, clock=clock)
    circuit.failed()
    for wait_s in (1, 2, 4, 4):
        clock.now_s += wait_s - 0.01
        assert not circuit.allows()
        clock.now_s += 0.01
        assert circuit.allows()
        circuit.failed()


def test_a_try_that_never_reports_is_followed_by_another() -> None:
    clock = Clock()
    circuit = Circuit(failures=1, first_wait_s=1, clock=clock)
    circuit.failed()
    clock.now_s = 1.0
    assert circuit.allows()
    clock.now_s = 2.0
    assert circuit.allows()
