"""Rows as the open inference protocol takes them, and the fleet or model that takes them."""

from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl

from shoal.serving.frames import request_tensors
from shoal.serving.messages import TensorMetadata

ROWS_PER_REQUEST: Final = 10_000
"""More rows are asked about in several requests, all of one snapshot."""


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
        ``task``; of a fleet ``keys``: so many inputs, from the first on, are key columns; ``labels``.
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


def request_body(frame: pl.DataFrame, described: Described, outputs: Sequence[str]) -> bytes:
    """Rows as a request; raises as :func:`shoal.serving.frames.request_tensors` does."""
    inputs = request_tensors(frame, described.inputs, described.keys)
    return msgspec.json.encode({"inputs": inputs, "outputs": [{"name": name} for name in outputs]})
