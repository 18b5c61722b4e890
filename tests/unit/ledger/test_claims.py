"""The claims on a table of any kind: in bulk, in lanes, and by several at once."""

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import LeaseLost
from shoal.ledger.claims import AT_ONCE, ClaimTable, Holding, Settlement
from shoal.storage.columns import JsonText, UtcTime
from shoal.storage.sql import Database
from tests.databases import Databases

NOW = dt.datetime(2026, 11, 21, 4, 40, 12, tzinfo=dt.UTC)
WORK = sa.Table(
    "work",
    sa.MetaData(),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("lane", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("lease_until", UtcTime),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("result", JsonText),
    sa.Column("error", sa.Text),
    sa.Index("ix_work_lane_state_number", "lane", "state", "number"),
    sa.Index("ix_work_state_number", "state", "number"),
)
CLAIMS = ClaimTable(WORK, key=("id",), order="number", waiting="waiting", held="held", given_up="given_up", lane="lane")
ANY = sa.true()


@pytest.fixture
def work(databases: Databases) -> Iterator[Database]:
    with contextlib.closing(Database(databases.empty())) as database:
        with database.write() as connection:
            WORK.create(connection)
        yield database


def fill(database: Database, lanes: Iterable[str | None]) -> None:
    rows = [
        {"id": f"w{number:06d}", "number": number, "lane": lane, "state": "waiting", "attempts": 0}
        for number, lane in enumerate(lanes)
    ]
    with database.write() as connection:
        connection.execute(WORK.insert(), rows)


def claim(database: Database, owner: str = "a", limit: int = 100, now: dt.datetime = NOW) -> list[Holding]:
    with database.write() as connection:
        rows = CLAIMS.claim(connection, ANY, owner=owner, now=now, lease_s=60, limit=limit)
    return [Holding(key=(row["id"],), owner=row["owner"], attempt=row["attempts"]) for row in rows]


def settle(database: Database, holdings: Iterable[Holding], state: str = "done", **values: object) -> list[Holding]:
    with database.write() as connection:
        return CLAIMS.settle_many(
            connection, [Settlement(holding=held, state=state, values=values) for held in holdings]
        )


def states(database: Database) -> dict[str, str]:
    with database.read() as connection:
        return {row.id: row.state for row in connection.execute(sa.select(WORK.c.id, WORK.c.state).order_by(WORK.c.id))}


def numbers(holdings: Iterable[Holding]) -> list[int]:
    return [int(str(held.key[0])[1:]) for held in holdings]


def test_many_are_settled_at_once_each_with_its_own_values(work):
    count = 2 * AT_ONCE + 7
    fill(work, [None] * count)
    held = claim(work, limit=count)
    settlements = [
        Settlement(holding=one, state="done", values={"result": {"n": number}})
        if number % 3
        else Settlement(holding=one, state="failed", values={"error": f"no {number}"})
        for number, one in enumerate(held)
    ]
    with work.write() as connection:
        assert sorted(numbers(CLAIMS.settle_many(connection, settlements))) == list(range(count))
        rows = connection.execute(sa.select(WORK).order_by(WORK.c.number)).mappings().all()
    for number, row in enumerate(rows):
        if number % 3:
            assert (row["state"], row["result"], row["error"]) == ("done", {"n": number}, None)
        else:
            assert (row["state"], row["result"], row["error"]) == ("failed", None, f"no {number}")
        assert row["lease_until"] is None


def test_what_is_not_held_any_more_is_neither_settled_nor_renewed(work):
    fill(work, [None] * 5)
    held = claim(work)
    later = NOW + dt.timedelta(seconds=61)
    with work.write() as connection:
        connection.execute(WORK.update().where(WORK.c.id == held[4].key[0]).values(attempts=2))
        CLAIMS.settle(connection, held[3], state="done", values={}, what="w3")
    taken = claim(work, owner="b", limit=2, now=later)
    forged = Holding(key=("nothing",), owner="a", attempt=1)
    with work.write() as connection:
        assert CLAIMS.renew(connection, [*held, forged], now=later, lease_s=60) == [held[2]]
    assert numbers(taken) == [0, 1]
    assert settle(work, [*held, forged], error="mine") == [held[2]]
    assert settle(work, taken) == taken
    assert list(states(work).values()) == ["done", "done", "done", "done", "held"]
    with work.read() as connection:
        errors = {row.id: row.error for row in connection.execute(sa.select(WORK.c.id, WORK.c.error))}
    assert {name for name, error in errors.items() if error == "mine"} == {"w000002"}


def test_settling_nothing_is_nothing(work):
    assert settle(work, []) == []
    with work.write() as connection:
        assert CLAIMS.renew(connection, [], now=NOW, lease_s=60) == []


def test_settling_twice_counts_once(work):
    fill(work, [None])
    (held,) = claim(work)
    assert settle(work, [held, held]) == [held]
    assert settle(work, [held]) == []
    with work.write() as connection, pytest.raises(LeaseLost):
        CLAIMS.settle(connection, held, state="done", values={}, what="w0")


def test_of_a_lane_only_the_first_is_claimed(work):
    fill(work, ["x", "x", "y", None, "y", None, "x"])
    first = claim(work)
    assert numbers(first) == [0, 2, 3, 5]
    assert claim(work, owner="b") == []
    settle(work, first[:1])
    second = claim(work, owner="b")
    assert numbers(second) == [1]
    settle(work, second, state="waiting", error="try again")
    assert numbers(claim(work, owner="c")) == [1], "what failed keeps its place"
    settle(work, first[1:2], state="given_up")
    assert numbers(claim(work, owner="c")) == [4]


def test_the_first_of_a_lane_goes_to_others_when_its_lease_ran_out(work):
    fill(work, ["x", "x"])
    claim(work)
    later = claim(work, owner="b", now=NOW + dt.timedelta(seconds=61))
    assert [(held.key, held.attempt) for held in later] == [(("w000000",), 2)]


@settings(max_examples=20)
@given(
    lanes=st.lists(st.sampled_from(["x", "y", None]), min_size=1, max_size=8),
    fates=st.lists(st.sampled_from(["done", "waiting", "given_up"]), min_size=24, max_size=24),
    limit=st.integers(1, 5),
)
def test_lanes_keep_their_order_whatever_becomes_of_the_work(tmp_path_factory, lanes, fates, limit):
    work = Database(f"sqlite:///{tmp_path_factory.mktemp('lanes')}/work.db")
    with work.write() as connection:
        WORK.create(connection)
    fill(work, lanes)
    settled: list[int] = []
    for fate in fates:
        held = claim(work, limit=limit)
        owned = [lanes[number] for number in numbers(held) if lanes[number] is not None]
        assert len(owned) == len(set(owned))
        settle(work, held, state=fate)
        if fate != "waiting":
            settled += numbers(held)
    for lane in ("x", "y"):
        of_lane = [number for number in settled if lanes[number] == lane]
        assert of_lane == sorted(of_lane)
        assert len(of_lane) == len(set(of_lane))
    work.close()


def test_many_workers_at_once_do_each_row_once_and_lanes_in_order(work):
    lanes = [None if number % 3 else f"lane {number % 4}" for number in range(240)]
    fill(work, lanes)
    done: list[int] = []
    lock = threading.Lock()

    def worker(name: str) -> None:
        own = Database(work.engine.url.render_as_string(hide_password=False))
        while "waiting" in states(own).values() or "held" in states(own).values():
            held = claim(own, owner=name, limit=16)
            with lock:
                done.extend(numbers(held))
            assert settle(own, held) == held
        own.close()

    faults: list[BaseException] = []
    threads = [threading.Thread(target=_noting(worker, faults), args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(done) == list(range(240))
    for lane in set(lanes) - {None}:
        of_lane = [number for number in done if lanes[number] == lane]
        assert of_lane == sorted(of_lane)


def _noting(work: Callable[[str], None], faults: list[BaseException]) -> Callable[[str], None]:
    def run(name: str) -> None:
        try:
            work(name)
        except BaseException as error:
            faults.append(error)

    return run
