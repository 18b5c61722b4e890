"""Results by POST to a service, signed."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import httpx
import msgspec

from shoal.errors import ConnectionFailed
from shoal.security import signing
from shoal.serving.documents import response_json
from shoal.serving.sink_kinds import Delivery

_AT_A_TIME: Final = 16


class WebhookSink:
    """A service that gets each result by POST, signed; it may get one twice, under the same ``Idempotency-Key``.

    Parameters
    ----------
    url : str
        Where to.
    secrets_of : callable
        The secrets to sign with, read each time, so that they can be replaced.
    headers : mapping of str to str
        What to send along.
    timeout_s : float
        How long the service may take to answer, all in all, in seconds.
    """

    def __init__(
        self, url: str, secrets_of: Callable[[], Sequence[bytes]], headers: Mapping[str, str], timeout_s: float
    ) -> None:
        self._url = url
        self._secrets_of = secrets_of
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(_AT_A_TIME)
        self._client = httpx.AsyncClient(
            headers={**headers, "content-type": "application/json"},
            timeout=httpx.Timeout(None),  # would begin anew with each byte
            limits=httpx.Limits(max_connections=_AT_A_TIME, max_keepalive_connections=_AT_A_TIME),
            follow_redirects=False,
            trust_env=False,
        )

    def next_name(self) -> str:
        """The answer is written down first, so that a second delivery says the same as the first."""
        return "webhook"

    async def has_delivered(self, delivery: Delivery, name: str) -> bool:
        """Nobody knows."""
        return False

    async def deliver(self, deliveries: Sequence[Delivery], name: str) -> list[Exception | None]:  # noqa: D102
        return list(await asyncio.gather(*map(self._one_or_why_not, deliveries)))

    async def _one_or_why_not(self, delivery: Delivery) -> Exception | None:
        try:
            await self._post(delivery)
        except ConnectionFailed as error:
            return error
        return None

    async def _post(self, delivery: Delivery) -> None:
        claim = delivery.claim
        body = msgspec.json.encode(
            {
                "id": claim.id,
                "fleet": claim.fleet,
                "request_id": claim.request_id,
                "accepted_at": claim.accepted_at,
                "response": msgspec.Raw(response_json(delivery.response)),
            }
        )
        async with self._turns:
            signature = signing.sign(body, self._secrets_of(), at_s=time.time())
            headers = {signing.HEADER: signature, "idempotency-key": claim.id}
            try:
                async with (
                    asyncio.timeout(self._timeout_s),
                    self._client.stream("POST", self._url, content=body, headers=headers) as answer,
                ):
                    status = answer.status_code
            except TimeoutError as error:
                raise ConnectionFailed(f"the webhook does not answer within {self._timeout_s:g} s") from error
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise ConnectionFailed(
                    "the webhook does not answer", detail=str(error) or type(error).__name__
                ) from error
        if not httpx.codes.is_success(status):
            raise ConnectionFailed(f"the webhook answers {status}; it should answer 2xx once it has the result")

    async def close(self) -> None:  # noqa: D102
        await self._client.aclose()
