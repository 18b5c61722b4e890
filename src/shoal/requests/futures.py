"""Telling who waits what became of what he asked for."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

Answer = TypeVar("Answer")


def settle(pairs: "Iterable[tuple[asyncio.Future[Answer], Answer | Exception]]") -> None:
    """Give every future its answer, and raise in it an answer that is an error; who waits no more is left out."""
    for future, answer in pairs:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
