import datetime as dt

import numpy as np
import polars as pl
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidInput
from shoal.table import index
from shoal.table.hashing import ABSENT, BLOCK_SHIFT
from shoal.table.keys import KeyRows, check_key, coerce, encode, key_text
from shoal.types import KeyColumn, KeyType

DEVICE = KeyColumn(name="device", type=KeyType.STRING)
NUMBER = KeyColumn(name="number", type=KeyType.INTEGER)
FLAG = KeyColumn(name="flag", type=KeyType.BOOLEAN)
DAY = KeyColumn(name="day", type=KeyType.DATE)
ALL = [DEVICE, NUMBER, FLAG, DAY]
NAMES = ("device", "number", "flag", "day")

ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.text(max_size=70)),
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.dates()),
    ),
    max_size=30,
)


def frame_of(rows):
    schema = {"device": pl.String, "number": pl.Int64, "flag": pl.Boolean, "day": pl.Date}
    return pl.DataFrame(rows, schema=schema, orient="row")


def plain_bytes(row, level):
    """The documented encoding, spelled out independently."""
    out = b""
    for name, value in zip(NAMES, row, strict=True):
        if name not in level:
            out += b"\x00"
        elif value is None:
            out += b"\x05"
        elif isinstance(value, str):
            data = value.encode()
            out += b"\x01" + len(data).to_bytes(4, "little") + data
        elif isinstance(value, bool):
            out += b"\x03" + bytes([value])
        elif isinstance(value, int):
            out += b"\x02" + value.to_bytes(8, "little", signed=True)
        else:
            out += b"\x04" + (value - dt.date(1970, 1, 1)).days.to_bytes(4, "little", signed=True)
    return out


@given(rows=ROWS, level=st.sets(st.sampled_from(NAMES)))
def test_encoding_is_the_documented_one(rows, level):
    keys = encode(ALL, frame_of(rows), tuple(level))
    got = [keys.data[a:b].tobytes() for a, b in zip(keys.offsets[:-1], keys.offsets[1:], strict=True)]
    assert got == [plain_bytes(row, level) for row in rows]


@given(rows=ROWS)
def test_hash_is_xxh64(rows):
    keys = encode(ALL, frame_of(rows), NAMES)
    assert index.hash_of(keys).tolist() == [xxhash.xxh64_intdigest(plain_bytes(row, NAMES)) for row in rows]


def test_hash_has_golden_vectors():
    """These numbers are on disk: if this fails, every stored fleet has become unreadable."""
    rows = [
        ("pump-7", 42, True, dt.date(2013, 11, 1)),
        ("", -1, False, dt.date(1969, 12, 31)),
        ("ä" * 40, 0, True, None),
    ]
    keys = encode(ALL, frame_of(rows), NAMES)
    assert [f"{h:016x}" for h in index.hash_of(keys).tolist()] == GOLDEN


GOLDEN = ["7ef7f0f3f4cf692c", "d194a2a9005e799e", "b04eec3e511f571e"]


@given(rows=st.sets(st.tuples(st.text(max_size=12), st.integers(-3, 3)), max_size=60), absent=st.text(max_size=12))
def test_every_key_is_found_at_its_place_and_no_other(rows, absent):
    columns = [DEVICE, NUMBER]
    rows = sorted(rows)
    frame = pl.DataFrame(rows, schema={"device": pl.String, "number": pl.Int64}, orient="row")
    keys = encode(columns, frame, ("device", "number"))
    places = (np.uint64(1) << BLOCK_SHIFT) | np.arange(len(rows), dtype=np.uint64)
    segment = index.build(keys, places)
    segment.validate([0, len(rows)])
    found = np.full(len(rows), ABSENT)
    segment.find(keys, np.array([0, 1000]), found)
    assert found.tolist() == list(range(1000, 1000 + len(rows)))
    strange = encode(columns, pl.DataFrame({"device": [absent], "number": [99]}), ("device", "number"))
    found = np.full(1, ABSENT)
    segment.find(strange, np.array([0, 1000]), found)
    assert found.tolist() == [ABSENT]


@given(rows=ROWS, more=ROWS, level=st.sets(st.sampled_from(NAMES)), skipped=st.integers(0, 20))
def test_rows_are_found_where_they_lie(rows, more, level, skipped):
    """Keys of rows in several chunks of memory, from the middle of them, are those that encoding them gives."""
    frame = pl.concat([frame_of(rows), frame_of(more), frame_of(rows)], rechunk=False).slice(skipped)
    asked = [plain_bytes(row, level) for row in (*rows, *more, *rows)][skipped:]
    stored = frame_of(rows).filter(pl.all_horizontal(pl.col(name).is_not_null() for name in NAMES))
    keys = encode(ALL, stored, tuple(level))
    places = {keys.data[a:b].tobytes(): i for i, (a, b) in enumerate(zip(keys.offsets, keys.offsets[1:], strict=False))}
    rows_of_keys = np.array(list(places.values()), dtype=np.uint64)
    segment = index.build(index.take(keys, rows_of_keys.astype(np.int64)), rows_of_keys)
    found = np.full(frame.height, ABSENT)
    segment.find(KeyRows.of(ALL, frame, tuple(level)), np.array([1000]), found)
    assert found.tolist() == [1000 + places[key] if key in places else ABSENT for key in asked]


def test_one_key_twice_is_refused():
    frame = pl.DataFrame({"device": ["a", "b", "a"]})
    keys = encode([DEVICE], frame, ("device",))
    with pytest.raises(InvalidInput, match="two models"):
        index.build(keys, np.arange(3, dtype=np.uint64))


@pytest.mark.parametrize(
    ("column", "key", "values", "wrong"),
    [
        (pl.Series([1, 2]), DEVICE, ["1", "2"], None),
        (pl.Series(["a", "b"], dtype=pl.Categorical), DEVICE, ["a", "b"], None),
        (pl.Series(["7", "x", None]), NUMBER, [7, None, None], [False, True, False]),
        (pl.Series([1.0, 1.5, float("nan")]), NUMBER, [1, None, None], [False, True, False]),
        (pl.Series([2**64 - 1, 3], dtype=pl.UInt64), NUMBER, [None, 3], [True, False]),
        (pl.Series(["True", "no"]), FLAG, [True, None], [False, True]),
        (pl.Series(["2013-11-01", "1.11.2013"]), DAY, [dt.date(2013, 11, 1), None], [False, True]),
        (pl.Series([dt.datetime(2013, 11, 1, 5)]), DAY, [dt.date(2013, 11, 1)], None),
        (pl.Series([None, None]), DAY, [None, None], None),
    ],
)
def test_columns_are_brought_to_the_keys_type(column, key, values, wrong):
    series, bad = coerce(column, key)
    assert series.to_list() == values
    assert (None if bad is None else bad.tolist()) == wrong


@pytest.mark.parametrize("key", [DAY, FLAG])
def test_a_column_that_can_be_no_key_is_refused(key):
    with pytest.raises(InvalidInput, match="cast it"):
        coerce(pl.Series([1.5]), key)


@pytest.mark.parametrize("key", [("a",), ("a", 1, 2), ("a", "1"), ("a", None), ("a", 1.0), ("a", True), ["a", 1]])
def test_keys_that_do_not_fit_are_refused(key):
    with pytest.raises(InvalidInput, match="key"):
        check_key([DEVICE, NUMBER], key)


def test_key_text_can_stand_in_an_address():
    assert key_text(ALL, NAMES, ("a/b c:*", 1, True, dt.date(2013, 1, 2))) == "a%2Fb%20c%3A%2A:1:true:2013-01-02"
    assert key_text(ALL, ("number",), (5,)) == "*:5:*:*"
