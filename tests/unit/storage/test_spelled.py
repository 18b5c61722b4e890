"""Statements in a driver's words give what SQLAlchemy's own way of running them gives."""

import pytest
import sqlalchemy as sa

from shoal.storage.spelled import SpelledStatement
from shoal.storage.sql import Database

PARTS = sa.table("parts", sa.column("site"), sa.column("number"), sa.column("share"))


@pytest.fixture
def parts(database: Database) -> Database:
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE parts (site TEXT, number BIGINT, share TEXT)")
        rows = [{"site": f"s{i % 3}", "number": i, "share": f"{i % 5} %"} for i in range(30)]
        connection.execute(sa.insert(PARTS), rows)
    return database


def both(database: Database, statement: sa.Select, values: dict[str, object]) -> list[list[tuple[object, ...]]]:
    """What SQLAlchemy gives, what a spelled statement gives, and what it gives when its words are known."""
    spelled = SpelledStatement(statement, database.engine.dialect, listed="keys" if "keys" in values else None)
    with database.read() as connection:
        runs = [connection.execute(statement, values), *(spelled.run(connection, values) for _ in range(2))]
        return [sorted(map(tuple, run)) for run in runs]


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_lists_of_values_and_of_pairs(parts: Database, length: int) -> None:
    asked = sa.bindparam("keys", expanding=True)
    one = sa.select(PARTS.c.number).where(PARTS.c.number.in_(asked))
    expected = [(i,) for i in range(0, min(2 * length, 30), 2)]
    assert both(parts, one, {"keys": [2 * i for i in range(length)]}) == [expected] * 3
    pair = sa.select(PARTS.c.number).where(sa.tuple_(PARTS.c.site, PARTS.c.number).in_(asked))
    keys = [(f"s{i % 3}", i + i % 2 * 1000) for i in range(length)]
    assert both(parts, pair, {"keys": keys}) == [[(i,) for i in range(0, min(length, 30), 2)]] * 3


def test_every_length_has_words_of_its_own(parts: Database) -> None:
    statement = sa.select(PARTS.c.number).where(PARTS.c.number.in_(sa.bindparam("keys", expanding=True)))
    spelled = SpelledStatement(statement, parts.engine.dialect, listed="keys")
    with parts.read() as connection:
        for length in [*range(1, 90), *range(89, 0, -1)]:
            found = spelled.run(connection, {"keys": list(range(length))})
            assert sorted(row[0] for row in found) == list(range(min(length, 30)))


def test_constants_and_percent_signs_stay_what_they_are(parts: Database) -> None:
    statement = sa.select(PARTS.c.number, sa.literal("a %(b)s"), sa.literal_column("'50 %'")).where(
        PARTS.c.share.like("4 %"), PARTS.c.number < sa.bindparam("most"), PARTS.c.number % 2 == 1
    )
    assert both(parts, statement, {"most": 20}) == [[(9, "a %(b)s", "50 %"), (19, "a %(b)s", "50 %")]] * 3
