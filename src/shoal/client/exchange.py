"""One question and its answer, as values; how both reach a server is no matter here."""

import enum
import secrets
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from shoal import errors
from shoal.storage.decoding import decodable
from shoal.types import Json

Answer = TypeVar("Answer")

_KINDS: Mapping[int, type[errors.ShoalError]] = {
    400: errors.InvalidInput,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    504: errors.DeadlineExceeded,
}
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
"""The header that says of two requests that they are one."""

_UNAVAILABLE = frozenset({429, 502, 503})


class Door(enum.Enum):
    """Where a question is answered: a server may have a port of its own for management."""

    ANY = enum.auto()
    INFERENCE = enum.auto()
    MANAGEMENT = enum.auto()


class Question(msgspec.Struct, Generic[Answer], frozen=True, kw_only=True):
    """What to send, and how to read what comes back.

    Attributes
    ----------
    method, path : str
        As HTTP has them.
    read : callable
        From the answer's JSON to what the caller gets.
    body : bytes or None
        JSON.
    headers : mapping of str to str
        What is said beside the body.
    door : Door
        Who can answer it.
    fleet : str or None
        The fleet that it is about: servers that hold it are asked.
    key : str
        The key, as addresses have it, where it is about a single model; empty where it is not. A server that does not
        have the model may be one that serves another snapshot than others.
    repeatable : bool
        Whether asking twice does no more than asking once.
    """

    method: str
    path: str
    read: Callable[[bytes], Answer]
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    door: Door = Door.ANY
    fleet: str | None = None
    key: str = ""
    repeatable: bool = True


def get(
    path: str,
    read: Callable[[bytes], Answer],
    *,
    door: Door = Door.ANY,
    about: str | None = None,
    **query: str | float | None,
) -> Question[Answer]:
    """A question that changes nothing; ``about`` a fleet, the address of a single model, or none."""
    fleet, _, key = (about or "").partition(":")
    return Question(method="GET", path=path + asking(query), read=read, door=door, fleet=fleet or None, key=key)


def send(
    method: str,
    path: str,
    body: Mapping[str, Json] | None,
    read: Callable[[bytes], Answer],
    *,
    door: Door = Door.ANY,
    repeatable: bool = False,
    key: str | None = None,
) -> Question[Answer]:
    """A question that changes something; one with an idempotency key may be asked twice.

    Raises
    ------
    InvalidInput
        The body has something in it that JSON cannot hold.
    """
    try:
        content = None if body is None else msgspec.json.encode(body)
    except (TypeError, ValueError) as error:
        raise errors.InvalidInput(f"this cannot be sent as JSON: {error}") from error
    headers = {} if key is None else {IDEMPOTENCY_KEY: key}
    repeatable = repeatable or key is not None
    return Question(
        method=method, path=path, read=read, body=content, headers=headers, door=door, repeatable=repeatable
    )  # fmt: skip


def made_key() -> str:
    """An idempotency key that nobody else has."""
    return secrets.token_hex(16)


def asking(query: Mapping[str, str | int | float | None]) -> str:
    """The end of a path that says what is asked for; what is None is not."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def reading(kind: type[Answer]) -> Callable[[bytes], Answer]:
    """What reads JSON of a kind.

    Raises
    ------
    StorageError
        The server sent something else; it is no Shoal server, or one of another version.
    """

    def read(content: bytes) -> Answer:
        try:
            return msgspec.json.decode(content, type=decodable(kind))
        except msgspec.DecodeError as error:
            raise errors.StorageError(f"the server's answer cannot be read ({error}); is it a Shoal server?") from error

    return read


def part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def error_of(status: int, content: bytes, retry_after: str | None) -> errors.ShoalError:
    """What an answer that is no success means here."""
    text = _text(content) or f"the server answered with status {status}"
    if status in _UNAVAILABLE:
        return errors.Unavailable(text, retry_after_s=_seconds(retry_after))
    return _KINDS.get(status, errors.StorageError)(text)


def _text(content: bytes) -> str:
    try:
        told = msgspec.json.decode(content, type=dict[str, object])
    except msgspec.DecodeError:
        return ""
    return str(told.get("error", ""))


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
