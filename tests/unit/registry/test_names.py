import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidInput
from shoal.registry import CHAMPION, Reference, check_name, parse_reference


@pytest.mark.parametrize("name", ["flights", "a", "7", "Flights_2.0-beta", "x" * 100])
def test_safe_names_are_taken(name):
    assert check_name(name, what="a fleet") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "a@b", "a:3", " a", "a ", "a b", "-a", "a-", ".a", "a.", "ä", "a\n", "\u0663",
     "x" * 101, "a\0b", "%41", "a?b", "a#b"],
)  # fmt: skip
def test_unsafe_names_are_refused_with_advice(name):
    with pytest.raises(InvalidInput, match="ASCII letters"):
        check_name(name, what="a fleet")


@given(st.text(max_size=20))
def test_a_name_that_is_taken_is_the_same_in_a_url_and_one_folder(name):
    try:
        check_name(name, what="a fleet")
    except InvalidInput:
        return
    assert urllib.parse.quote(name, safe="") == name
    assert "/" not in name
    assert name not in {".", ".."}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("flights", Reference(fleet="flights", alias=CHAMPION, version=None, is_bare=True)),
        ("flights@challenger", Reference(fleet="flights", alias="challenger", version=None)),
        ("flights:12", Reference(fleet="flights", alias=None, version=12)),
        ("flights:2147483647", Reference(fleet="flights", alias=None, version=2**31 - 1)),
    ],
)
def test_references_are_read(text, reference):
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    ["", "@", ":", "flights@", "flights:", "flights:0", "flights:-1", "flights:x", "flights:1.0", "flights@a@b",
     "flights:1:2", "flights@a:1", "@champion", ":3", "a/b:3", "flights:99999999999", "flights:2147483648",
     "flights:\u0663", "flights: 3"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_reference(text)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_invalid_input(text):
    try:
        reference = parse_reference(text)
    except InvalidInput:
        return
    assert (reference.alias is None) != (reference.version is None)
