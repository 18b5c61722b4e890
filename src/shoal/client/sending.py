"""Questions over HTTP: to which server, how often, and what an answer means; the same for both kinds of client.

The order of things is a generator that says what to do next and is told what came of it, so that it is written once
and driven by a blocking client and by an asynchronous one.
"""

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar, cast

from shoal.client.exchange import Door, Question, error_of, get, reading
from shoal.client.routes import Routes, shown
from shoal.errors import NotFound, ShoalError, StorageError, Unavailable
from shoal.serving.services import Service

Answer = TypeVar("Answer")

ATTEMPTS: Final = 4
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
RUNNING: Final = "is the server running?"
HUNG_UP: Final = "has it ended, or does it want to see a certificate: shoal.connect(url, certificate=(PATH, KEY_PATH))?"
_OK: Final = range(200, 300)
_REFUSED: Final = (429, 503)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Send a question to a server; the driver answers with :class:`Told`, or None when the server cannot be reached.

    Attributes
    ----------
    url : str
        The server.
    method, path : str
        As HTTP has them.
    body : bytes or None
        JSON.
    headers : mapping of str to str
        What is said beside it.
    """

    url: str
    method: str
    path: str
    body: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Wait.

    Attributes
    ----------
    seconds : float
        How long.
    """

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a server answered.

    Attributes
    ----------
    status : int
        Of HTTP.
    content : bytes
        The body.
    retry_after : str or None
        The header of that name.
    """

    status: int
    content: bytes
    retry_after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreachable:
    """A server could not be asked.

    Attributes
    ----------
    reason : str
        Why.
    sent : bool
        Whether the question may have reached it all the same.
    advice : str
        What to do about it.
    """

    reason: str
    sent: bool
    advice: str = RUNNING


Step = Ask | Pause
Report = Told | Unreachable | None
Course = Generator[Step, Report, Answer]
Dialogue: TypeAlias = Generator[Question[object] | Pause, object, Answer]
"""Several questions, one after the other; a driver answers each, see :func:`asked`."""


def asked(question: Question[Answer]) -> Dialogue[Answer]:
    """Ask one question of a dialogue: ``answer = yield from asked(question)``."""
    answer = yield cast("Question[object]", question)
    return cast("Answer", answer)


def course(question: Question[Answer], routes: Routes) -> Course[Answer]:
    """Find a server, ask it, and another one where it cannot answer.

    Raises
    ------
    ShoalError
        What the server answered, or that none could be reached.
    """
    if (question.fleet is not None or question.door is not Door.ANY) and not routes.known(question.fleet):
        yield from _discover(question.fleet, routes)
    failure: ShoalError = StorageError("no server was asked")
    for attempt in range(ATTEMPTS):
        url = routes.candidates(question.fleet, question.door)[0]
        report = yield _asking(question, url)
        if isinstance(report, Told) and report.status in _OK:
            return question.read(report.content)
        failure, again = _judged(report, url, question)
        if not again:
            if isinstance(failure, NotFound) and question.key:
                return (yield from _ask_by_key(question, routes, url, failure))
            raise failure
        routes.failed(url, question.fleet)
        if attempt + 1 < ATTEMPTS:
            yield Pause(seconds=_pause_s(failure, attempt))
    raise failure


def _ask_by_key(question: Question[Answer], routes: Routes, asked_url: str, missing: NotFound) -> Course[Answer]:
    """Ask for a single model where discovery by its key finds it: another server may serve another snapshot.

    Raises
    ------
    NotFound
        No server has it; as the first one said.
    """
    holders = yield from _services(routes, name=question.fleet, key=question.key)
    for url in routes.places(holders or (), question.door):
        if url == asked_url:
            continue
        report = yield _asking(question, url)
        if isinstance(report, Told) and report.status in _OK:
            return question.read(report.content)
    raise missing


def _asking(question: Question[Answer], url: str) -> Ask:
    return Ask(url=url, method=question.method, path=question.path, body=question.body, headers=question.headers)


def _discover(fleet: str | None, routes: Routes) -> Generator[Step, Report, None]:
    """Ask who serves a fleet, or who is there, and remember it."""
    services = yield from _services(routes, name=fleet)
    routes.learn(fleet, services)


def _services(
    routes: Routes, *, name: str | None, key: str | None = None
) -> Generator[Step, Report, list[Service] | None]:
    """What discovery says, asked of the entry, or of whoever else is known where that does not answer."""
    question = get("/api/v1/services", reading(list[Service]), name=name, key=key)
    for url in routes.candidates(None, Door.ANY):
        report = yield _asking(question, url)
        if isinstance(report, Told):
            return question.read(report.content) if report.status in _OK else None
        routes.failed(url, None)
    return None


def _judged(report: Report, url: str, question: Question[Answer]) -> tuple[ShoalError, bool]:
    """What went wrong, and whether asking again may help and does no harm.

    Who says when to come back has done nothing yet; of other failures, e.g. of a database, that is not certain.
    """
    if isinstance(report, Told):
        error = error_of(report.status, report.content, report.retry_after)
        refused = report.status in _REFUSED and report.retry_after is not None
        return error, isinstance(error, Unavailable) and (question.repeatable or refused)
    assert isinstance(report, Unreachable)
    error = StorageError(f"{shown(url)} cannot be reached: {report.reason}; {report.advice}")
    return error, question.repeatable or not report.sent


def _pause_s(failure: ShoalError, attempt: int) -> float:
    """Longer from time to time, and never at the same moment as other clients."""
    wanted = FIRST_PAUSE_S * 2**attempt
    if isinstance(failure, Unavailable):
        wanted = max(wanted, failure.retry_after_s or 0.0)
    pause_s: float = min(wanted, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311
    return pause_s
