"""What a header of HTTP can hold: secrets come from files and variables, often with a line end behind them."""

import re
from typing import Final

from shoal.errors import InvalidInput

_HELD: Final = re.compile(r"[\x20-\x7e\t]*")


def header_value(text: str, what: str) -> str:
    """A text as the value of a header, without white space around it.

    Clients of HTTP repeat in their errors what they cannot send, so it is looked at before they see it.

    Parameters
    ----------
    text : str
        Maybe a secret; no message repeats it.
    what : str
        What messages call it.

    Raises
    ------
    InvalidInput
        It has a character that no header can hold.
    """
    stripped = text.strip()
    if not _HELD.fullmatch(stripped):
        raise InvalidInput(
            f"{what} has a character that no header of HTTP can hold: write letters, digits and signs of ASCII on "
            "one line"
        )
    return stripped
