"""The two drivers of a course: one blocks, one awaits. Only they know httpx."""

import asyncio
import time
from typing import TypeVar

from shoal.client.exchange import Question
from shoal.client.routes import Routes
from shoal.client.sending import HUNG_UP, RUNNING, Ask, Course, Dialogue, Pause, Report, Told, Unreachable, course
from shoal.client.trust import Trust, meaning
from shoal.errors import InvalidInput

try:
    import httpx
except ModuleNotFoundError as missing:
    raise InvalidInput("asking a server needs httpx; get it with: pip install 'shoal[client]'") from missing

Answer = TypeVar("Answer")


class Transport:
    """Asks and waits.

    Parameters
    ----------
    routes : Routes
        Whom to ask.
    headers : dict of str to str
        Sent with every question.
    timeout_s : float
        How long one answer may take, in seconds.
    trust : Trust
        How servers are verified.

    Attributes
    ----------
    timeout_s : float
        As given.
    """

    def __init__(self, routes: Routes, headers: dict[str, str], timeout_s: float, trust: Trust) -> None:
        self.timeout_s = timeout_s
        self._routes = routes
        verify = trust.context(httpx.create_ssl_context)
        self._client = httpx.Client(headers=headers, timeout=timeout_s, verify=verify)

    def ask(self, question: Question[Answer]) -> Answer:
        """Ask a question; raises what the server or the way to it raises."""
        steps: Course[Answer] = course(question, self._routes)
        report: Report = None
        while True:
            try:
                step = steps.send(report)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            report = self._do(step)

    def converse(self, dialogue: Dialogue[Answer]) -> Answer:
        """Ask the questions of a dialogue, one after the other; raises as :meth:`ask` does."""
        answer: object = None
        while True:
            try:
                step = dialogue.send(answer)
            except StopIteration as done:
                told: Answer = done.value
                return told
            answer = self._do(step) if isinstance(step, Pause) else self.ask(step)

    def _do(self, step: Ask | Pause) -> Report:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            response = self._client.request(step.method, step.url + step.path, content=step.body, headers=_kind(step))
        except httpx.HTTPError as error:
            return _unreachable(error, step)
        return _told(response)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncTransport:
    """Asks and awaits; parameters as of :class:`Transport`."""

    def __init__(self, routes: Routes, headers: dict[str, str], timeout_s: float, trust: Trust) -> None:
        self.timeout_s = timeout_s
        self._routes = routes
        verify = trust.context(httpx.create_ssl_context)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout_s, verify=verify)

    async def ask(self, question: Question[Answer]) -> Answer:
        """Ask a question; raises what the server or the way to it raises."""
        steps: Course[Answer] = course(question, self._routes)
        report: Report = None
        while True:
            try:
                step = steps.send(report)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            report = await self._do(step)

    async def converse(self, dialogue: Dialogue[Answer]) -> Answer:
        """Ask the questions of a dialogue, one after the other; raises as :meth:`ask` does."""
        answer: object = None
        while True:
            try:
                step = dialogue.send(answer)
            except StopIteration as done:
                told: Answer = done.value
                return told
            answer = await self._do(step) if isinstance(step, Pause) else await self.ask(step)

    async def _do(self, step: Ask | Pause) -> Report:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            url = step.url + step.path
            response = await self._client.request(step.method, url, content=step.body, headers=_kind(step))
        except httpx.HTTPError as error:
            return _unreachable(error, step)
        return _told(response)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _kind(step: Ask) -> dict[str, str]:
    return {**step.headers} if step.body is None else {**step.headers, "Content-Type": "application/json"}


def _told(response: httpx.Response) -> Told:
    return Told(status=response.status_code, content=response.content, retry_after=response.headers.get("retry-after"))


def _unreachable(error: httpx.HTTPError, step: Ask) -> Unreachable:
    """A question that found no connection was not sent; of any other that is not certain."""
    not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    meant = meaning(error)
    if meant is not None:
        return Unreachable(reason=meant[0], advice=meant[1], sent=not not_sent)
    reason = str(error).rstrip(".") or type(error).__name__
    hung_up = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) and step.url.startswith("https:")
    advice = HUNG_UP if hung_up else RUNNING
    return Unreachable(reason=reason, advice=advice, sent=not not_sent)
