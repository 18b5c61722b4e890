import itertools

import pytest

from shoal.errors import Conflict
from shoal.jobs.states import (
    ACTIVE_RUN_STATES,
    FINAL_RUN_STATES,
    PREDICTION_TRANSITIONS,
    RUN_TRANSITIONS,
    SHARD_TRANSITIONS,
    PredictionState,
    RunState,
    ShardState,
    require_transition,
)


@pytest.mark.parametrize(
    ("table", "states"),
    [(RUN_TRANSITIONS, RunState), (SHARD_TRANSITIONS, ShardState), (PREDICTION_TRANSITIONS, PredictionState)],
)
def test_the_tables_know_every_state_and_refuse_what_they_do_not_have(table, states):
    assert set(table) == set(states)
    for before, after in itertools.product(states, states):
        if after in table[before]:
            require_transition(table, before, after, what="it")
        else:
            with pytest.raises(Conflict, match=f"it is {before} and cannot become {after}"):
                require_transition(table, before, after, what="it")


@pytest.mark.parametrize(
    ("table", "start", "goal"),
    [
        (RUN_TRANSITIONS, RunState.PLANNED, RunState.SUCCEEDED),
        (SHARD_TRANSITIONS, ShardState.PENDING, ShardState.DONE),
        (PREDICTION_TRANSITIONS, PredictionState.WAITING, PredictionState.DONE),
    ],
)
def test_every_state_is_reached_and_success_is_reachable_unless_it_ended(table, start, goal):
    assert reached(table, start) == set(table)
    for state in table:
        if table[state]:
            assert goal in reached(table, state)


def test_only_committing_leads_to_success():
    assert [state for state in RunState if RunState.SUCCEEDED in RUN_TRANSITIONS[state]] == [RunState.COMMITTING]


def test_final_and_active_states_are_told_apart():
    assert {RunState.SUCCEEDED, RunState.CANCELLED, RunState.EXPIRED} == FINAL_RUN_STATES
    assert set(RunState) - FINAL_RUN_STATES == ACTIVE_RUN_STATES


def reached(table, start):
    seen, waiting = {start}, [start]
    while waiting:
        for following in table[waiting.pop()] - seen:
            seen.add(following)
            waiting.append(following)
    return seen
