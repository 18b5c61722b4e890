"""A block: models of one layout as an Arrow record batch, and its arrays as the kernels read them.

Columns of a block file (format 1):

=================  ==================================================================================
``key.NAME``       the key column; null where the model's level leaves it out
``level``          int64: bit ``i`` is set where the model's level has key column ``i``
``rows`` ...       the facts of :class:`~shoal.table.facts.ModelFacts`
``transform``      fixed-size list of float64: the numbers of the column-transform program
``classes``        fixed-size list of int32: the model's labels as positions in the block's list
``fixed.NAME``     fixed-size list: a parameter with one shape; ``shapes`` in the metadata
``ragged.NAME``    large list: a parameter of varying length; its buffers are the kernel's CSR arrays
=================  ==================================================================================

The schema's metadata holds, under ``shoal``, JSON with the format's number, the layout, the labels, the category
lists and the shapes. To change the format: add 1 to :data:`FORMAT`, keep the present reader as ``_read_1`` for old
files, and add a file of the old format to ``tests/data`` with a test that still opens it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import InvalidArtifact
from shoal.families.contract import Layout, ModelBlock, Ragged
from shoal.families.stacking import StackedModels
from shoal.storage.decoding import decodable
from shoal.types import Floats, Indices, Integers, Label

FORMAT = 1
METADATA_KEY = b"shoal"
FIXED, RAGGED, KEY = "fixed.", "ragged.", "key."


class BlockHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata of a block file.

    Attributes
    ----------
    format : int
        Number of the format.
    layout : Layout
        What the models have in common.
    labels : tuple of Label
        The block's class labels, sorted.
    categories : tuple of tuple of str
        Per feature, the block's list of texts.
    shapes : dict of str to tuple of int
        Shape of each fixed parameter of one model.
    """

    format: int
    layout: Layout
    labels: tuple[Label, ...]
    categories: tuple[tuple[str, ...], ...]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Models of one layout.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
        The columns as stored.
    header : BlockHeader
        The metadata.
    arrays : ModelBlock
        The same memory as the kernels read it; ``class_map`` maps the block's labels to themselves.
    digest : str or None
        sha256 of the file, hexadecimal; None for a block that was never stored.
    path : Path or None
        The file.
    """

    batch: pa.RecordBatch
    header: BlockHeader
    arrays: ModelBlock
    digest: str | None = None
    path: Path | None = None

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @property
    def level_masks(self) -> Integers:
        """Per model, the key columns its level has, as bits."""
        return cast("Integers", np.from_dlpack(self.batch.column("level")))

    def take(self, rows: Integers) -> "Block":
        """The chosen models as a block of their own, in memory."""
        return bind(self.batch.take(pa.array(rows)).replace_schema_metadata(self.batch.schema.metadata))


def build(
    stacked: StackedModels, keys: Mapping[str, pa.Array], levels: Integers, facts: Mapping[str, pa.Array]
) -> Block:
    """Make a block of stacked models.

    Parameters
    ----------
    stacked : StackedModels
        The parameters of ``m`` models.
    keys : mapping of str to pyarrow.Array
        Key columns, ``m`` values each.
    levels : ndarray of int64, shape (m,)
        Bits of the key columns that each model's level has.
    facts : mapping of str to pyarrow.Array
        The models' facts.
    """
    columns: dict[str, pa.Array] = {KEY + name: column for name, column in keys.items()}
    columns["level"] = pa.array(levels, type=pa.int64())
    columns |= facts
    columns["transform"] = _fixed_list(stacked.transform)
    columns["classes"] = _fixed_list(stacked.classes)
    columns |= {FIXED + name: _fixed_list(values) for name, values in stacked.fixed.items()}
    columns |= {RAGGED + name: _large_list(values) for name, values in stacked.ragged.items()}
    header = BlockHeader(
        format=FORMAT,
        layout=stacked.layout,
        labels=stacked.labels,
        categories=stacked.categories,
        shapes={name: tuple(int(n) for n in values.shape[1:]) for name, values in stacked.fixed.items()},
    )
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    return bind(batch.replace_schema_metadata({METADATA_KEY: msgspec.json.encode(header)}))


def bind(batch: pa.RecordBatch, *, digest: str | None = None, path: Path | None = None) -> Block:
    """Read a record batch as a block, without copying.

    Only the shapes are looked at here; see :mod:`shoal.table.validation` for what must hold before a kernel runs.

    Raises
    ------
    InvalidArtifact
        The batch is not a block, or one of a format that this version cannot read.
    """
    header = read_header(batch.schema.metadata or {})
    models = batch.num_rows
    layout = header.layout
    arrays = ModelBlock(
        layout=layout,
        models=models,
        program=_program(layout),
        transform=cast("Floats", _matrix(batch, "transform", (layout.slots,))),
        fixed={name: _matrix(batch, FIXED + name, shape) for name, shape in header.shapes.items()},
        ragged={n.removeprefix(RAGGED): _csr(batch, n) for n in batch.schema.names if n.startswith(RAGGED)},
        classes=cast("Indices", _matrix(batch, "classes", None)),
        class_map=np.arange(len(header.labels), dtype=np.int32),
    )
    return Block(batch=batch, header=header, arrays=arrays, digest=digest, path=path)


def read_header(metadata: Mapping[bytes, bytes]) -> BlockHeader:
    """Decode a block's metadata.

    Raises
    ------
    InvalidArtifact
        It is missing, malformed, or of a newer format.
    """
    try:
        number = msgspec.json.decode(metadata.get(METADATA_KEY, b"{}"), type=dict).get("format")
        if number != FORMAT:
            raise InvalidArtifact(f"a block has format {number!r}; this version of Shoal reads {FORMAT}: update Shoal")
        return msgspec.json.decode(metadata[METADATA_KEY], type=decodable(BlockHeader))
    except msgspec.MsgspecError as error:
        raise InvalidArtifact(f"a block's metadata cannot be read: {error}") from error


def _program(layout: Layout) -> Indices:
    try:
        return np.array(layout.program, dtype=np.int32).reshape(-1, 7)
    except OverflowError as error:
        raise InvalidArtifact(f"a column-transform program has a number that is out of range: {error}") from error


def _fixed_list(values: NDArray[np.generic]) -> pa.Array:
    size = int(np.prod(values.shape[1:], dtype=np.int64))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if size == 0:  # Arrow cannot tell the length of a list array without values
        return pa.FixedSizeListArray.from_buffers(pa.list_(flat.type, 0), len(values), [None], children=[flat])
    return pa.FixedSizeListArray.from_arrays(flat, size)


def _large_list(values: Ragged) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(values.offsets), pa.array(np.ascontiguousarray(values.values)))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    position = batch.schema.get_field_index(name)
    if position < 0:
        raise InvalidArtifact(f"a block lacks the column {name!r}")
    return batch.column(position)


def _matrix(batch: pa.RecordBatch, name: str, shape: Sequence[int] | None) -> NDArray[np.generic]:
    column = _column(batch, name)
    if not pa.types.is_fixed_size_list(column.type) or not _holds_numbers(column.type):
        raise InvalidArtifact(f"a block's column {name!r} is {column.type}, not a list of numbers")
    size = column.type.list_size
    expected = (size,) if shape is None else tuple(shape)
    if any(n < 0 for n in expected) or int(np.prod(expected, dtype=object)) != size:
        raise InvalidArtifact(f"a block's column {name!r} has {size} numbers a model; its shape is {expected}")
    if column.null_count or column.values.null_count:
        raise InvalidArtifact(f"a block's column {name!r} has missing values")
    numbers = np.from_dlpack(column.values.slice(column.offset * size, len(column) * size))
    shaped: NDArray[np.generic] = numbers.reshape(len(column), *expected)
    return shaped


def _csr(batch: pa.RecordBatch, name: str) -> Ragged:
    column = _column(batch, name)
    if not pa.types.is_large_list(column.type) or not _holds_numbers(column.type):
        raise InvalidArtifact(f"a block's column {name!r} is {column.type}, not a large list of numbers")
    if column.null_count or column.values.null_count:
        raise InvalidArtifact(f"a block's column {name!r} has missing values")
    return Ragged(offsets=cast("Integers", np.from_dlpack(column.offsets)), values=np.from_dlpack(column.values))


def _holds_numbers(kind: pa.DataType) -> bool:
    """Whether a list's elements are numbers, which can be read where they lie.

    They are by DLPack: Arrow's own ``to_numpy`` would import pandas where that is installed, for a quarter of a second.
    """
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))
