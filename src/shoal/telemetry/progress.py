"""How far a piece of work is, told to whoever watches; nothing here prints."""

from typing import Final, Protocol


class Progress(Protocol):
    """Told how far work is. Calls come from one thread at a time; they are cheap and never raise."""

    def start(self, task: str, total: int | None) -> None:
        """Begin a task.

        Parameters
        ----------
        task : str
            What is being done, in words for the user; it names the task in the other calls.
        total : int or None
            How many steps it has; None when nobody knows.
        """
        ...

    def advance(self, task: str, by: int = 1) -> None:
        """Say that ``by`` more steps are done."""
        ...

    def finish(self, task: str) -> None:
        """Say that the task is over."""
        ...


class Silence:
    """Progress that nobody watches."""

    def start(self, task: str, total: int | None) -> None:
        """Say nothing."""

    def advance(self, task: str, by: int = 1) -> None:
        """Say nothing."""

    def finish(self, task: str) -> None:
        """Say nothing."""


SILENT: Final[Progress] = Silence()
"""For work that nobody watches."""
