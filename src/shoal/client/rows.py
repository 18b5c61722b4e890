"""Rows as the open inference protocol takes them, and the fleet or model that takes them."""

from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl

from shoal.client.exchange import reading
from shoal.serving.frames import request_tensors
from shoal.serving.messages import TensorMetadata
from shoal.table.keys import coerce
from shoal.types import KeyColumn, KeyType

ROWS_PER_REQUEST: Final = 10_000
"""More rows are asked about in several requests, all of one snapshot."""

_key_types: Final = reading(dict[str, KeyType])
_names: Final = reading(list[str])


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet or a single model as the server describes it.

    Attributes
    ----------
    name : str
        Its address.
    versions : list of str
        The snapshot that is served.
    inputs, outputs : list of TensorMetadata
        What it takes and gives.
    properties : dict
        ``task``; of a fleet ``keys``: so many inputs, from the first on, are key columns; ``key_types``: JSON with the
        types of these and of what features are looked up by, by name; ``levels``: JSON with the names of the levels,
        finest first; ``labels``.
    """

    name: str
    versions: list[str]
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str | int | float | bool] = {}

    @property
    def keys(self) -> list[str]:
        """Names of the key columns."""
        return [one.name for one in self.inputs[: int(self.properties.get("keys", 0))]]

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return [one.name for one in self.inputs[int(self.properties.get("keys", 0)) :]]

    @property
    def key_types(self) -> dict[str, KeyType]:
        """Types of the key columns, and of the columns that features are looked up by."""
        return _key_types(str(self.properties.get("key_types", "{}")).encode())

    @property
    def levels(self) -> list[str]:
        """Names of the levels that a fleet's models are keyed by, finest first."""
        return _names(str(self.properties.get("levels", "[]")).encode())


def request_body(frame: pl.DataFrame, described: Described, outputs: Sequence[str]) -> bytes:
    """Rows as a request; raises as :func:`shoal.serving.frames.request_tensors` does."""
    inputs = request_tensors(frame, described.inputs, described.keys, described.key_types)
    return msgspec.json.encode({"inputs": inputs, "outputs": [{"name": name} for name in outputs]})


def key_frame(frame: pl.DataFrame, described: Described) -> pl.DataFrame:
    """The key columns of rows, in the keys' types, as a fleet gives them back with its predictions."""
    types = described.key_types
    return pl.DataFrame(
        [coerce(frame[name], KeyColumn(name=name, type=types[name]))[0] for name in described.keys if name in types]
    )
