"""A fleet's single models, each under an address of its own."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shoal.errors import NotFound
from shoal.families.contract import Layout
from shoal.fleet import Fleet
from shoal.serving.addresses import ModelAddress, parse_key
from shoal.types import KeyType

#: Addresses that are kept parsed.
KEPT = 16_384


class SingleModel:
    """A model that was addressed; whether there is one shows when it is looked for.

    Parameters
    ----------
    fleet : Fleet
        Its fleet.
    address : ModelAddress
        Its level and key.

    Attributes
    ----------
    constants : tuple
        The values of the fleet's key columns as a request would give them; None where the level leaves one out.
    level : int
        Position of its level, -1 where the fleet has no such level.
    """

    def __init__(self, fleet: Fleet, address: ModelAddress) -> None:
        self._fleet = fleet
        self.address = address
        values = dict(zip(address.level, address.key, strict=True))
        self.constants = tuple(
            [
                str(values[column.name])
                if column.type is KeyType.DATE and column.name in values
                else values.get(column.name)
                for column in fleet.keys
            ]
        )
        self.level = fleet.levels.index(address.level) if address.level in fleet.levels else -1

    @cached_property
    def number(self) -> int:
        """The model's number in the table.

        Raises
        ------
        NotFound
            There is no such model.
        """
        if self.level >= 0:
            number = self._fleet.table.number(self.address.level, self.address.key)
            if number >= 0:
                return number
        raise self.missing()

    def missing(self) -> NotFound:
        """The error that says that there is no such model."""
        name = self._fleet.name
        return NotFound(f"fleet {name!r} has no model {self.address.text!r}; ask {name!r} itself for its fallback")

    @property
    def layout(self) -> Layout:
        """How the model is laid out; raises as :attr:`number` does."""
        table = self._fleet.table
        block = int(np.searchsorted(table.starts, self.number, side="right")) - 1
        return table.blocks[block].header.layout

    def needed(self) -> frozenset[str]:
        """Names of the features that the model looks at; raises as :attr:`number` does."""
        return frozenset(feature.name for feature in self.layout.features)

    def require_own(self, levels: NDArray[np.int8]) -> None:
        """Refuse answers that another model gave in this one's place.

        Parameters
        ----------
        levels : ndarray of int8, shape (rows,)
            Position of the level that answered each row.

        Raises
        ------
        NotFound
            There is no such model.
        """
        if not len(levels):
            _ = self.number  # nothing was looked for yet
        elif self.level < 0 or levels[0] != self.level:
            raise self.missing()


class SingleModels:
    """The single models of a fleet that were asked for lately.

    Parameters
    ----------
    fleet : Fleet
        The fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._kept: dict[str, SingleModel] = {}

    def __getitem__(self, key: str) -> SingleModel:
        """The model of an address's key.

        Raises
        ------
        NotFound
            No model can have that key.
        """
        model = self._kept.get(key)
        if model is None:
            model = SingleModel(self._fleet, parse_key(self._fleet.name, self._fleet.keys, key))
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = model
        return model
