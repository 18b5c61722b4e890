"""Names of fleets and aliases, and the texts that refer to snapshots."""

import re
from dataclasses import dataclass

from shoal.errors import InvalidInput

CHAMPION = "champion"
"""The alias that a bare fleet name means."""

LONGEST_NAME = 100

PRINTABLE = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")
"""A text that a header can hold, as keys of requests are."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_LATEST_VERSION = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a text such as ``flights@champion`` or ``flights:3`` refers to.

    Attributes
    ----------
    fleet : str
        Name of the fleet.
    alias : str or None
        The alias, None when a version is given.
    version : int or None
        The version, None when an alias is given.
    is_bare : bool
        Whether neither was said: the champion, or what is served under the name, as the question has it.
    """

    fleet: str
    alias: str | None
    version: int | None
    is_bare: bool = False


def check_name(name: str, *, what: str) -> str:
    """Give the name back if it is safe in URLs and as a folder on every system.

    Parameters
    ----------
    name : str
        ASCII letters, digits, ``.``, ``_``, ``-``; the first and the last a letter or digit; at most 100 characters.
    what : str
        What it names, for the message.

    Raises
    ------
    InvalidInput
        The name has something else in it.
    """
    if isinstance(name, str) and len(name) <= LONGEST_NAME and _NAME.fullmatch(name):
        return name
    raise InvalidInput(
        f"{name!r} cannot name {what}; use ASCII letters, digits, '.', '_' and '-', begin and end with a letter or "
        f"digit, and stay within {LONGEST_NAME} characters"
    )


def check_printable(text: str, *, what: str) -> None:
    """Refuse a text that could not be sent in a header.

    Parameters
    ----------
    text : str
        1 to 255 printable characters of ASCII.
    what : str
        What it is, for the message.

    Raises
    ------
    InvalidInput
        It is something else.
    """
    check_text(text, what=what)
    if not PRINTABLE.fullmatch(text):
        raise InvalidInput(f"the {what} has to have 1 to 255 printable ASCII characters")


def check_text(text: object, *, what: str) -> None:
    """Refuse what is no text; ``what`` names it for the message of the InvalidInput."""
    if not isinstance(text, str):
        raise InvalidInput(f"the {what} has to be a text, not {_shown(text)}")


def check_flag(flag: object, *, what: str) -> None:
    """Refuse what is neither true nor false; ``what`` names it for the message of the InvalidInput."""
    if not isinstance(flag, bool):
        raise InvalidInput(f"{what!r} has to be true or false, not {_shown(flag)}")


def check_version(version: object, *, what: str = "version") -> None:
    """Refuse what is no number of a snapshot: texts and truth values, which Python takes for numbers, are none.

    Raises
    ------
    InvalidInput
        Says what it is.
    """
    if type(version) is not int or version > _LATEST_VERSION:
        raise InvalidInput(f"{what!r} has to be the number of a snapshot, such as 3, not {_shown(version)}")


def _shown(value: object) -> str:
    return repr(value)[:60]


def parse_reference(text: str) -> Reference:
    """Read ``fleet``, ``fleet@alias`` or ``fleet:version``; a bare name means the champion.

    Raises
    ------
    InvalidInput
        The text is none of these.
    """
    if ":" in text:
        name, _, version = text.partition(":")
        if not _VERSION.fullmatch(version) or int(version) > _LATEST_VERSION:
            raise InvalidInput(f"{text!r} does not name a snapshot; after ':' comes its version, e.g. {name}:3")
        return Reference(fleet=check_name(name, what="a fleet"), alias=None, version=int(version))
    name, at, alias = text.partition("@")
    if at:
        check_name(alias, what="an alias")
    return Reference(fleet=check_name(name, what="a fleet"), alias=alias or CHAMPION, version=None, is_bare=not at)
