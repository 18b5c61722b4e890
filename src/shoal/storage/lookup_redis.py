"""Features by key from Redis or Valkey."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import quote

import msgspec
import polars as pl

from shoal.errors import ConnectionFailed, InvalidInput
from shoal.storage.lookup_reader import Found, Values, Wanted
from shoal.storage.redis_client import connect, redis_errors
from shoal.types import Key


class RedisReader:
    """Reads hashes or JSON objects, many keys in one round trip.

    Parameters
    ----------
    url : str
        ``redis://host:port/0``, ``rediss://`` or ``unix://``.
    wanted : Wanted
        What to read; the columns are fields of the hash or object.
    key : str
        Where a key's fields are, with ``{column}`` for each of its values.
    form : {"hash", "json"}
        How they are kept.
    timeout_s : float
        How long to wait, in seconds.
    """

    def __init__(
        self, url: str, wanted: Wanted, *, key: str, form: Literal["hash", "json"] = "hash", timeout_s: float = 1.0
    ) -> None:
        self._wanted = wanted
        self._place = place(key, tuple(wanted.keys))
        self._form = form
        self._redis = connect(url, timeout_s=timeout_s)

    async def fetch(self, keys: Sequence[Key], timeout_s: float) -> list[Found]:
        """What the source has for each key; see :class:`~shoal.storage.lookup_reader.Reader`."""
        places = [self._place(key) for key in keys]
        try:
            async with asyncio.timeout(timeout_s):
                return await (self._hashes(places) if self._form == "hash" else self._objects(places))
        except TimeoutError:
            raise
        except redis_errors() as error:
            raise ConnectionFailed("Redis does not answer as it should", detail=str(error)) from error

    def history(self) -> pl.DataFrame:
        """Redis knows the present only."""
        raise InvalidInput("Redis keeps no history; use a source that does, an SQL table or a Parquet file")

    async def past(self, keys: Sequence[Key], timeout_s: float, most: int | None) -> pl.DataFrame | None:
        """Redis knows the present only."""
        return self.history()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _hashes(self, places: Sequence[str]) -> list[Found]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for one in places:
                pipeline.hmget(one, list(self._wanted.columns))
            found = await pipeline.execute(raise_on_error=False)
        return list(map(_hash_values, found))

    async def _objects(self, places: Sequence[str]) -> list[Found]:
        found = await self._redis.mget(places)
        return [None if data is None else self._values(data) for data in found]

    def _values(self, data: bytes | str) -> Found:
        try:
            return object_values(msgspec.json.decode(data), self._wanted.columns)
        except msgspec.DecodeError as error:
            return ConnectionFailed("Redis holds something that is no JSON where features should be", detail=str(error))
        except ConnectionFailed as error:
            return error


def place(template: str, names: Sequence[str]) -> Callable[[Key], str]:
    """Fills a template's placeholders with a key's values.

    With several placeholders, values are percent-encoded: else ``a:b`` and ``c`` would be found where ``a`` and
    ``b:c`` are.
    """
    alone = len(names) == 1

    def fill(key: Key) -> str:
        text = template
        for name, value in zip(names, key, strict=True):
            text = text.replace(f"{{{name}}}", plain(value) if alone else quote(plain(value), safe=""))
        return text

    return fill


def plain(value: object) -> str:
    """A key's value as a text, as addresses of models write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def object_values(found: object, columns: Sequence[str]) -> Values:
    """The wanted members of a JSON object.

    Raises
    ------
    ConnectionFailed
        It is no object.
    """
    if not isinstance(found, dict):
        raise ConnectionFailed(f"features should be a JSON object, and not {type(found).__name__}")
    return tuple(found.get(name) for name in columns)


def _hash_values(row: Sequence[bytes | None] | Exception) -> Found:
    if isinstance(row, Exception):
        return ConnectionFailed("Redis holds no hash where features should be", detail=str(row))
    return None if all(value is None for value in row) else tuple(map(_text, row))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
