"""From the path of a request to what it is about: the model it names, and the version."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote

from starlette.types import Receive, Scope

from shoal.errors import InvalidInput
from shoal.server.permissions import Rule

_REMEMBERED: Final = 16_384
_LONGEST_REMEMBERED: Final = 256
_ENCODED_ONCE: Final = re.compile("%(?!25)")

Headers: TypeAlias = "list[tuple[bytes, bytes]]"
Answer: TypeAlias = "tuple[int, bytes, Headers]"
"""Status, body, and headers beside the body's length."""
Handler: TypeAlias = "Callable[[Target, Scope, Receive], Awaitable[Answer]]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a path leads to.

    Attributes
    ----------
    handler : Handler
        What answers.
    model : str
        The address of the fleet or model that the path names; empty where it names none.
    version : str or None
        The snapshot that it names.
    fleet : str
        The address up to the first colon.
    """

    handler: Handler
    model: str
    version: str | None
    fleet: str


class Targets:
    """Finds what paths lead to, and remembers it.

    Parameters
    ----------
    handlers : mapping of (method, template) to Handler
        What answers the routes of the permission table.
    """

    def __init__(self, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._handlers = handlers
        self._found: dict[tuple[str, bytes], Target] = {}

    def target(self, rule: Rule, path: bytes) -> Target:
        """What a path leads to.

        Parameters
        ----------
        rule : Rule
            The route that it was found to be.
        path : bytes
            As it was sent, percent-encoded.

        Raises
        ------
        InvalidInput
            A name in it is no text.
        """
        asked = (rule.method, path)
        found = self._found.get(asked)
        if found is None:
            found = self._read(rule, path)
            if len(path) <= _LONGEST_REMEMBERED:
                if len(self._found) >= _REMEMBERED:  # callers choose the paths: never remember more than so many
                    self._found.clear()
                self._found[asked] = found
        return found

    def _read(self, rule: Rule, path: bytes) -> Target:
        named = {
            template[1:-1]: part
            for template, part in zip(rule.template.split("/"), path.decode("latin-1").split("/"), strict=True)
            if template.startswith("{")
        }
        version = named.get("version")
        model = address_of(named.get("model", ""))
        return Target(
            handler=self._handlers[rule.method, rule.template],
            model=model,
            version=None if version is None else _decoded(version),
            fleet=model.partition(":")[0],
        )


def address_of(part: str) -> str:
    """The address of a fleet or model in a part of a path.

    Clients send the address ``fleet:a%3Ab`` encoded once more, ``fleet%3Aa%253Ab``, or ``fleet:a%253Ab`` when they
    leave the colon; people write it as it is, ``fleet:a%3Ab``. An address has no characters but percent signs that need
    to be encoded once more, so one with other escapes has not been.

    Raises
    ------
    InvalidInput
        It is no text.
    """
    fleet, colon, key = part.partition(":")
    if not colon or not _ENCODED_ONCE.search(key):
        return _decoded(part)
    return f"{_decoded(fleet)}:{key}"


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidInput("a name in the path is no UTF-8 once it is decoded; percent-encode its bytes") from error
