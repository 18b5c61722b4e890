"""Snapshots that are open because somebody asked for them by their number."""

from collections import OrderedDict
from collections.abc import Callable

from shoal.serving.served import ServedFleet


class Numbered:
    """Open snapshots by fleet and number, those that were not asked for the longest first.

    Parameters
    ----------
    most : int
        How many stay open.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._served: OrderedDict[tuple[str, int], ServedFleet] = OrderedDict()

    def get(self, fleet: str, number: int) -> ServedFleet | None:
        """One of them, which is asked for now; None where it is not open."""
        key = (fleet, number)
        if key in self._served:
            self._served.move_to_end(key)
        return self._served.get(key)

    def add(self, served: ServedFleet) -> list[ServedFleet]:
        """Keep one; returns those that have to go for it."""
        self._served[served.wanted.fleet, served.snapshot.version] = served
        return [self._served.popitem(last=False)[1] for _ in range(len(self._served) - self._most)]

    def drop(self, unless: Callable[[ServedFleet], bool]) -> list[ServedFleet]:
        """Keep those of which something is true; returns the others."""
        gone = [key for key, served in self._served.items() if not unless(served)]
        return [self._served.pop(key) for key in gone]
