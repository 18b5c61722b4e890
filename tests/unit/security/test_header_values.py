import os
from pathlib import Path
from unittest import mock

import pytest

from shoal.errors import InvalidInput
from shoal.requests.readers import open_reader
from shoal.requests.sources import load_source
from shoal.security.header_values import header_value
from shoal.storage.lookup_reader import Wanted
from shoal.types import KeyType

SOURCE = {
    "kind": "http", "url": "http://127.0.0.1:1/rows", "hosts": ["127.0.0.1:1"],
    "headers": {"authorization": "Bearer ${TOKEN}"},
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), [("a b\tc~!", "a b\tc~!"), (" a\r\n", "a"), ("", ""), ("\n", "")])
def test_white_space_around_a_value_is_left_out(text: str, value: str) -> None:
    assert header_value(text, "it") == value


@pytest.mark.parametrize(
    "text", ["secret\nsecret", "secret\r\nx: y", "secretü", "secret\0", "secret\x7f", "secret\ud800"]
)
def test_what_no_header_can_hold_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^the key has a character") as told:
        header_value(text, "the key")
    assert "secret" not in str(told.value)
    wanted = Wanted(keys={"id": KeyType.STRING}, values=("level",), as_of=None)
    if "\0" in text or "\ud800" in text:
        return  # no variable of the environment holds it
    with mock.patch.dict(os.environ, TOKEN=text), pytest.raises(InvalidInput, match=r"headers\.authorization") as told:
        open_reader(load_source(SOURCE), wanted, cache=Path("nowhere"), timeout_s=1)
    assert "secret" not in str(told.value)
