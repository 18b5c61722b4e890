"""What the registry said last of servers and fleets, known to every process of a server.

Each process writes what it hears to a page of memory, see :mod:`shoal.telemetry.pages`, and any of them tells the
newest: all give the same answers while the registry is away, and so does one that takes a dead one's place.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from shoal.errors import ShoalError
from shoal.registry import Registry
from shoal.serving.contact import Contact
from shoal.serving.services import Survey, Surveyor
from shoal.telemetry.pages import Page, newest_stamped, stamped

ANSWER_S: Final = 1.0
"""How long whoever asks for servers waits for the registry, in seconds."""

LOOK_S: Final = 1.0
"""Seconds between two looks whether any process of the server has asked lately."""

LATELY_S: Final = 1.5
"""The registry is asked when nobody did for so long, in seconds; a server's processes take turns."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Survey)
_log = logging.getLogger("shoal.server")


class Surveys:
    """Asks the registry, for who wants to know and so that it is known. Belongs to one event loop.

    Parameters
    ----------
    registry : Registry
        Who is asked.
    contact : Contact
        Whether it answers.
    pages : sequence of Page
        One per process of the server.
    number : int
        Which of them is this process's.
    """

    def __init__(self, registry: Registry, contact: Contact, pages: Sequence[Page], number: int) -> None:
        self._surveyor = Surveyor(registry)
        self._contact = contact
        self._pages = pages
        self._own = pages[number]
        self._asking: asyncio.Task[Survey] | None = None
        self._asked_at_s = 0.0

    async def work(self) -> None:
        """Ask for ever, as long as the registry answers and no other process of the server has asked lately."""
        while True:
            if not self._contact.problem and await asyncio.to_thread(self._is_due):
                await asyncio.wait({self._question()}, timeout=ANSWER_S)
            await asyncio.sleep(LOOK_S * random.uniform(0.8, 1.2))  # noqa: S311

    async def now(self) -> Survey | None:
        """What the registry says; None when it does not soon. It is asked one question at a time, for all who ask."""
        if self._contact.problem:
            return None
        asking = self._question()
        await asyncio.wait({asking}, timeout=max(0.0, self._asked_at_s + ANSWER_S - time.monotonic()))
        if not asking.done():
            return None
        error = asking.exception()
        if error is not None and not isinstance(error, ShoalError):
            raise error
        return None if error is not None else asking.result()

    async def last(self) -> tuple[Survey, float] | None:
        """What the registry said last to any process of the server, and how many seconds ago; None for nothing yet."""
        return await asyncio.to_thread(self._last)

    def _question(self) -> "asyncio.Task[Survey]":
        """The question that is being asked."""
        if self._asking is None:
            self._asked_at_s = time.monotonic()
            self._asking = asyncio.create_task(asyncio.to_thread(self._ask, self._asked_at_s))
            self._asking.add_done_callback(self._end)
        return self._asking

    def _end(self, asking: "asyncio.Task[Survey]") -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # it is told to those who asked, if any

    def _ask(self, at_s: float) -> Survey:
        found = self._surveyor.survey()
        try:
            self._own.write(stamped(at_s, _encoder.encode(found)))
        except ValueError as error:  # too many fleets; only who asks while the registry is away would miss it
            _log.debug("what is known of servers is not told to other processes: %s", error)
        return found

    def _is_due(self) -> bool:
        newest = newest_stamped(self._pages)
        return newest is None or time.monotonic() - newest[0] > LATELY_S

    def _last(self) -> tuple[Survey, float] | None:
        newest = newest_stamped(self._pages)
        return None if newest is None else (_decoder.decode(newest[1]), time.monotonic() - newest[0])
