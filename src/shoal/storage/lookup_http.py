"""Features by key from a service that answers JSON."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, urljoin

import httpx
import msgspec
import polars as pl

from shoal.errors import ConnectionFailed, InvalidInput
from shoal.storage.lookup_reader import Found, Values, Wanted
from shoal.storage.lookup_redis import object_values, plain
from shoal.types import Key

_MOST_REDIRECTS = 3
_DOTS = {".", "..", ""}


class HttpReader:
    """Asks a service, per key or for many keys at once.

    Parameters
    ----------
    url : str
        With ``{column}`` for each value of a key, or without any.
    wanted : Wanted
        What to read; the columns are members of the answer.
    is_allowed : callable
        Whether an address may be asked; redirects are held against it too.
    headers : mapping of str to str
        What to send along.
    max_bytes : int
        Longest answer.
    connections : int
        Most requests at a time.
    timeout_s : float
        How long a request may take, in seconds.
    """

    def __init__(
        self,
        url: str,
        wanted: Wanted,
        *,
        is_allowed: Callable[[str], bool],
        headers: Mapping[str, str],
        max_bytes: int,
        connections: int,
        timeout_s: float,
    ) -> None:
        self._url = url
        self._protocol = url[: url.index("://") + 3]
        self._wanted = wanted
        self._per_key = any(f"{{{name}}}" in url for name in wanted.keys)
        self._is_allowed = is_allowed
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(connections)
        self._client = httpx.AsyncClient(
            headers={"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
            | dict(headers),
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            trust_env=False,
        )

    async def fetch(self, keys: Sequence[Key], timeout_s: float) -> list[Found]:
        """What the source has for each key; see :class:`~shoal.storage.lookup_reader.Reader`."""
        async with asyncio.timeout(timeout_s):
            if not self._per_key:
                return await self._together(keys)
            return list(await asyncio.gather(*map(self._one_or_why_not, keys)))

    def history(self) -> pl.DataFrame:
        """A service knows the present only."""
        raise InvalidInput("a service keeps no history; use a source that does, an SQL table or a Parquet file")

    async def past(self, keys: Sequence[Key], timeout_s: float, most: int | None) -> pl.DataFrame | None:
        """A service knows the present only."""
        return self.history()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _one_or_why_not(self, key: Key) -> Found:
        try:
            return await self._one(key)
        except ConnectionFailed as error:
            return error

    async def _one(self, key: Key) -> Values | None:
        texts = [plain(value) for value in key]
        if _DOTS & set(texts):
            return None  # would mean another address than that of a key
        url = self._url
        for name, text in zip(self._wanted.keys, texts, strict=True):
            url = url.replace(f"{{{name}}}", quote(text, safe=""))
        async with self._turns:
            found = await self._ask("GET", url, None)
        return None if found is None else object_values(found, self._wanted.columns)

    async def _together(self, keys: Sequence[Key]) -> list[Found]:
        named = [dict(zip(self._wanted.keys, key, strict=True)) for key in keys]
        async with self._turns:
            found = await self._ask("POST", self._url, msgspec.json.encode({"keys": named}))
        rows = found.get("rows") if isinstance(found, dict) else None
        if not isinstance(rows, list) or len(rows) != len(keys):
            raise ConnectionFailed(f'the lookup\'s service should answer {{"rows": [...]}} with {len(keys)} element(s)')
        return [None if row is None else object_values(row, self._wanted.columns) for row in rows]

    async def _ask(self, method: str, url: str, body: bytes | None) -> object:
        """The JSON at an address; None where there is nothing."""
        for _ in range(_MOST_REDIRECTS + 1):
            if not (url.startswith(self._protocol) and self._is_allowed(url)):
                raise ConnectionFailed(
                    "the lookup's service sends elsewhere, which is not allowed", detail=repr(url[:200])
                )
            try:
                async with self._client.stream(method, url, content=body) as response:
                    if not response.is_redirect:
                        return await self._read(response)
                    url = urljoin(url, response.headers.get("location", ""))
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                problem = str(error) or type(error).__name__
                raise ConnectionFailed("the lookup's service does not answer", detail=problem) from error
        raise ConnectionFailed("the lookup's service redirects again and again")

    async def _read(self, response: httpx.Response) -> object:
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code != httpx.codes.OK:
            raise ConnectionFailed(f"the lookup's service answers {response.status_code}")
        if "content-encoding" in response.headers:  # a few bytes could become any number
            raise ConnectionFailed("the lookup's service compresses its answer, which it was not asked to")
        return _decoded(await self._content(response))

    async def _content(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > self._max_bytes:
                raise ConnectionFailed(f"the lookup's service answers more than {self._max_bytes} bytes")
        return bytes(content)


def _decoded(content: bytes) -> object:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise ConnectionFailed("the lookup's service answers something that is no JSON", detail=str(error)) from error
