import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import Conflict, InvalidInput, NotFound
from shoal.registry import Move


@pytest.fixture
def four(add):
    for _ in range(4):
        add()


@pytest.mark.usefixtures("four")
def test_promoting_moves_the_alias_and_keeps_the_history(registry):
    registry.promote("flights", 2, actor="ann", reason="first")
    change = registry.promote("flights", 3, actor="bob", reason="better by 4%")
    assert (change.number, change.move, change.before, change.after) == (2, Move.PROMOTE, 2, 3)
    assert registry.resolve("flights").version == 3
    assert registry.resolve("flights@champion") == registry.snapshot("flights", 3)
    (alias,) = registry.aliases("flights")
    assert (alias.alias, alias.version, alias.changed_by, alias.changed_at) == ("champion", 3, "bob", change.at)
    assert [(c.before, c.after, c.actor, c.reason) for c in registry.alias_history("flights")] == [
        (2, 3, "bob", "better by 4%"),
        (None, 2, "ann", "first"),
    ]
    assert registry.fleet("flights").aliases == {"champion": 3}


@pytest.mark.usefixtures("four")
def test_rolling_back_goes_further_back_each_time(registry):
    for version in (1, 3, 2, 4):
        registry.promote("flights", version, actor="ann")
    assert [registry.rollback("flights", actor="ann").after for _ in range(3)] == [2, 3, 1]
    with pytest.raises(NotFound, match="named nothing before 1"):
        registry.rollback("flights", actor="ann")
    assert registry.resolve("flights").version == 1
    assert len(registry.alias_history("flights")) == 7


@pytest.mark.usefixtures("four")
def test_after_a_rollback_and_a_promotion_back_leads_to_before_the_promotion(registry):
    for version in (1, 2):
        registry.promote("flights", version, actor="ann")
    assert registry.rollback("flights", actor="ann").after == 1
    registry.promote("flights", 3, actor="ann")
    assert registry.rollback("flights", actor="ann").after == 1
    with pytest.raises(NotFound):
        registry.rollback("flights", actor="ann")


@pytest.mark.usefixtures("four")
def test_promoting_what_is_there_gives_nothing_to_go_back_to(registry):
    for version in (1, 2, 2, 2):
        registry.promote("flights", version, actor="ann")
    assert registry.rollback("flights", actor="ann").after == 1


@pytest.mark.usefixtures("four")
@given(moves=st.lists(st.one_of(st.integers(1, 4), st.just("back")), max_size=12))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rollback_is_popping_a_stack(registry, moves):
    alias = f"a{len(registry.aliases('flights'))}"
    stack: list[int] = []
    for move in moves:
        if move == "back":
            if len(stack) < 2:
                with pytest.raises(NotFound):
                    registry.rollback("flights", alias=alias, actor="ann")
                continue
            stack.pop()
            registry.rollback("flights", alias=alias, actor="ann")
        else:
            if not stack or stack[-1] != move:
                stack.append(move)
            registry.promote("flights", move, alias=alias, actor="ann")
        assert registry.resolve(f"flights@{alias}").version == stack[-1]


@pytest.mark.usefixtures("four")
def test_a_decision_made_on_old_news_is_refused(registry):
    registry.promote("flights", 1, actor="ann", expected=0)
    with pytest.raises(Conflict, match="names 1 by now, not nothing"):
        registry.promote("flights", 2, actor="bob", expected=0)
    with pytest.raises(Conflict, match="names 1 by now, not 3"):
        registry.promote("flights", 2, actor="bob", expected=3)
    registry.promote("flights", 2, actor="bob", expected=1)
    with pytest.raises(Conflict, match="names 2 by now, not 1"):
        registry.rollback("flights", actor="bob", expected=1)
    with pytest.raises(Conflict, match="does not go back to 3"):
        registry.rollback("flights", actor="bob", onto=3)
    assert registry.before("flights") == 1
    assert registry.rollback("flights", actor="bob", expected=2).after == 1
    assert len(registry.alias_history("flights")) == 3


@pytest.mark.usefixtures("four")
def test_aliases_do_not_touch_each_other(registry, add):
    add(name="other")
    registry.promote("flights", 1, actor="ann")
    registry.promote("flights", 4, alias="challenger", actor="ann")
    registry.promote("other", 1, actor="ann")
    assert [(a.alias, a.version) for a in registry.aliases("flights")] == [("challenger", 4), ("champion", 1)]
    assert [c.after for c in registry.alias_history("flights", "challenger")] == [4]
    with pytest.raises(NotFound, match="named nothing before 4"):
        registry.rollback("flights", alias="challenger", actor="ann")
    with pytest.raises(NotFound, match="names nothing"):
        registry.rollback("flights", alias="nightly", actor="ann")


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("version", [0, -1, 5])
def test_only_versions_that_exist_are_promoted(registry, version):
    with pytest.raises(NotFound, match="newest is 4"):
        registry.promote("flights", version, actor="ann")
    assert registry.alias_history("flights") == []


@pytest.mark.usefixtures("four")
def test_an_alias_needs_a_safe_name(registry):
    with pytest.raises(InvalidInput, match="an alias"):
        registry.promote("flights", 1, alias="a/b", actor="ann")


@pytest.mark.usefixtures("four")
def test_what_is_sent_again_with_its_key_is_done_once(registry):
    wish = {"actor": "ann", "expected": 0, "idempotency_key": "k1"}
    first = registry.promote("flights", 2, **wish)
    assert registry.promote("flights", 2, **wish) == first
    back = {"actor": "ann", "idempotency_key": "k2"}
    registry.promote("flights", 3, actor="ann")
    assert registry.rollback("flights", **back) == registry.rollback("flights", **back)
    assert [change.after for change in registry.alias_history("flights")] == [2, 3, 2]
    assert registry.verify_audit().intact


@pytest.mark.usefixtures("four")
def test_what_was_done_and_moved_since_is_a_conflict(registry):
    wish = {"actor": "ann", "expected": 1, "idempotency_key": "k1"}
    registry.promote("flights", 1, actor="ann")
    registry.promote("flights", 2, **wish)
    registry.promote("flights", 1, actor="bob")  # it stands where it was expected to, and yet was moved
    with pytest.raises(Conflict, match="moved again since: it names 1"):
        registry.promote("flights", 2, **wish)
    assert registry.resolve("flights").version == 1


@pytest.mark.usefixtures("four")
def test_a_key_is_that_of_one_move_and_of_one_actor(registry):
    registry.promote("flights", 2, actor="ann", idempotency_key="k1")
    with pytest.raises(Conflict, match="another move"):
        registry.promote("flights", 3, actor="ann", idempotency_key="k1")
    with pytest.raises(Conflict, match="another move"):
        registry.rollback("flights", actor="ann", idempotency_key="k1")
    with pytest.raises(Conflict, match="by now"):
        registry.promote("flights", 2, actor="bob", expected=1, idempotency_key="k1")
    assert registry.promote("flights", 3, actor="bob", idempotency_key="k1").number == 2
    with pytest.raises(InvalidInput, match="printable"):
        registry.promote("flights", 3, actor="bob", idempotency_key="\n")
