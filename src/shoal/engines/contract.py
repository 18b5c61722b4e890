"""What an engine is: it runs one task over many items somewhere, and no item costs more than itself.

An engine knows nothing of fleets. It is told how to set a worker up (once per worker) and which items there are; it
answers for every item exactly once, in the order in which they get done: :class:`Done` with what the task returned, or
:class:`Lost` with the reason. Items must not depend on each other, and a task may be run again when its worker died.
"""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Context = TypeVar("Context")
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work(Generic[Context, Item, Answer]):
    """One task for many items.

    Attributes
    ----------
    setup : callable
        Called with ``context`` once in every worker; returns the task, which takes an item and returns its answer.
        A function of a module, since workers import it. Context, items and answers are pickled between the processes.
    context : object
        What all items share; keep it small and hand large data over in files.
    timeout_s : float
        Longest time one item may take.
    """

    setup: Callable[[Context], Callable[[Item], Answer]]
    context: Context
    timeout_s: float


class Failure(enum.StrEnum):
    """How an item got lost."""

    RAISED = "raised"
    TIMED_OUT = "timed_out"
    DIED = "died"


@dataclass(frozen=True, kw_only=True, slots=True)
class Done(Generic[Answer]):
    """An item that was done.

    Attributes
    ----------
    position : int
        Which item.
    answer : object
        What the task returned.
    seconds : float
        How long the task took.
    """

    position: int
    answer: Answer
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """An item that was not done.

    Attributes
    ----------
    position : int
        Which item.
    failure : Failure
        Whether the task raised, took too long, or took its worker with it.
    reason : str
        What happened, for people.
    seconds : float
        How long it was tried.
    """

    position: int
    failure: Failure
    reason: str
    seconds: float


class Engine(Protocol):
    """Somewhere to run tasks."""

    def run(self, work: Work[Context, Item, Answer], items: Sequence[Item]) -> Iterator[Done[Answer] | Lost]:
        """Run a task over items.

        Closing the iterator early, or an exception where it is consumed, abandons what is still running.

        Raises
        ------
        ShoalError
            No worker can be set up at all; the message says why.
        """
        ...

    def close(self) -> None:
        """Stop the workers; the engine may be used again, with new ones."""
        ...
