"""Whether the snapshots that servers hold answer for a segment key."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from shoal.errors import ShoalError
from shoal.fleet import Fleet
from shoal.serving.addresses import ModelAddress, parse_key
from shoal.types import Level

#: Snapshots that are kept open.
KEPT = 8


class Holdings:
    """Looks into snapshots, opening those that are not at hand. Safe for threads.

    Parameters
    ----------
    opener : callable
        Maps what a reference such as ``pumps:3`` means.
    at_hand : callable, optional
        Gives a fleet's snapshot of a version if it is open anyway.
    """

    def __init__(
        self, opener: Callable[[str], Fleet], at_hand: Callable[[str, int], Fleet | None] = lambda _name, _version: None
    ) -> None:
        self._opener = opener
        self._at_hand = at_hand
        self._kept: OrderedDict[str, Fleet] = OrderedDict()
        self._lock = threading.Lock()

    def answers(self, name: str, version: int, key: str) -> bool:
        """Whether a snapshot has a model for a key, its own or a coarser one; not, where it cannot be opened here.

        Parameters
        ----------
        name, version : str, int
            The fleet and the snapshot.
        key : str
            The key as addresses have it, ``key1:key2``, with ``*`` for what a coarser model does not look at.
        """
        try:
            fleet = self._at_hand(name, version) or self._opened(f"{name}:{version}")
            address = parse_key(name, fleet.keys, key)
        except ShoalError:
            return False
        return any(_has(fleet, level, address) for level in fleet.levels if set(level) <= set(address.level))

    def _opened(self, reference: str) -> Fleet:
        with self._lock:
            fleet = self._kept.get(reference)
        if fleet is None:
            fleet = self._opener(reference)  # may take long, and others find what is kept meanwhile
        with self._lock:
            self._kept[reference] = fleet
            self._kept.move_to_end(reference)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return fleet


def _has(fleet: Fleet, level: Level, address: ModelAddress) -> bool:
    values = dict(zip(address.level, address.key, strict=True))
    return fleet.table.number(level, tuple([values[name] for name in level])) >= 0
