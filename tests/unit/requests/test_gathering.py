"""Requests handed over one by one: how long a turn gathers them, and that who asks alone does not wait."""

from shoal.requests.gathering import FIRST_PAUSE, LONGEST_PAUSE, LONGEST_S, MOST, QUIET_S, Gathering


class Clock:
    """A gathering and the time that passes at each look."""

    def __init__(self):
        self.gathering = Gathering()
        self.now_s = 100.0

    def turn(self, comings, tick_s=QUIET_S / 4):
        """Run a turn to which requests come in ticks; how many it took and how long it looked."""
        began_s, waiting = self.now_s, 1
        comings = iter(comings)
        while self.gathering.goes_on(waiting, self.now_s):
            self.now_s += tick_s
            waiting += next(comings, 0)
        return waiting, self.now_s - began_s


def test_a_turn_goes_on_while_requests_come():
    clock = Clock()
    taken, _ = clock.turn([1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1])
    assert taken == 4  # what came after a silence is the next turn's


def test_as_many_as_last_time_are_enough():
    clock = Clock()
    clock.turn([1] * 9)
    for _ in range(2):
        clock.turn([1] * 9)  # looks further and finds nobody; from then on it knows
    assert clock.turn([1] * 20)[0] == 10


def test_a_moment_of_silence_does_not_make_it_forget_how_many_there_were():
    clock = Clock()
    for _ in range(3):
        clock.turn([1] * 9)
    assert clock.turn([1, 1])[0] == 3  # as after a pause of the process
    assert clock.turn([1] * 20)[0] == 8


def test_those_who_are_gone_are_forgotten():
    clock = Clock()
    assert clock.turn([200])[0] > MOST  # others of the same batcher came at once
    looked_s = [clock.turn([])[1] for _ in range(40)]
    assert 1.5 * QUIET_S < sum(looked_s) < 22 * QUIET_S
    assert sum(looked_s[20:]) < 1.5 * QUIET_S  # looking further for once


def test_it_finds_out_that_there_are_more():
    clock = Clock()
    taken = [clock.turn([1] * 12)[0] for _ in range(2 * FIRST_PAUSE)]
    assert max(taken) == taken[0] == 13
    more = [clock.turn([1] * 20)[0] for _ in range(LONGEST_PAUSE + 1)]
    assert max(more) == 21


def test_no_turn_takes_more_time_or_more_requests_than_it_may():
    clock = Clock()
    _, slow_s = clock.turn([0, 0, 1] * 100)
    assert slow_s <= LONGEST_S + QUIET_S
    clock = Clock()
    assert clock.turn([5] * 100)[0] <= MOST + 4


def test_who_asks_alone_waits_ever_less_often():
    clock = Clock()
    waited = [seconds for _, seconds in (clock.turn([]) for _ in range(20_000)) if seconds]
    assert max(waited) <= 1.5 * QUIET_S
    assert len(waited) < 20_000 / 500


def test_two_who_ask_in_turns_are_not_kept_waiting_for_a_third():
    clock = Clock()
    looked_s = [clock.turn([1])[1] for _ in range(1000)]
    assert sorted(looked_s)[900] <= QUIET_S / 4 + 1e-9  # until the second is there, and no longer
