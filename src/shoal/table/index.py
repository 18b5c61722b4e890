"""The index: from a segment key to its model, a sorted array of hashes that is searched where it lies in the file.

An index is a few *segments*, newest first, as in a log-structured store: promoting the winners of a retraining writes
one small segment beside the large old one, which snapshots share. A key is looked up in each until one knows it.
There is no dictionary of keys in any process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shoal.errors import InvalidArtifact, InvalidInput
from shoal.table.hashing import BLOCK_SHIFT, HASH, PLACE, REMOVED, ROW_MASK, START, find_keys, find_rows, hash_keys
from shoal.table.keys import EncodedKeys, KeyRows
from shoal.types import Indices, Integers

Words = NDArray[np.uint64]

#: More segments than this are folded into one: every one costs a probe for each key it does not know.
MOST_SEGMENTS = 4


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One sorted part of an index. Arrays may be mapped from a file.

    Attributes
    ----------
    entries : ndarray of uint64, shape (entries, 4)
        Ascending by the first column: XXH64 of the key; its place, ``block << 32 | row``, where ``block`` counts the
        segment's own blocks (all ones for a removed key); where the key starts and stops in ``keys.data``. Side by
        side because a search reads all four.
    keys : EncodedKeys
        The canonical bytes, in the order of the entries.
    """

    entries: Words
    keys: EncodedKeys

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def hashes(self) -> Words:
        """XXH64 of each key, shape (entries,)."""
        return self.entries[:, HASH]

    @property
    def places(self) -> Words:
        """Where each key's model is, shape (entries,)."""
        return self.entries[:, PLACE]

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Which entries take a key out of the fleet."""
        removed: NDArray[np.bool_] = self.places == REMOVED
        return removed

    @property
    def block_numbers(self) -> Integers:
        """Which of the segment's blocks each entry points to; meaningless for a removed key."""
        return (self.places >> BLOCK_SHIFT).astype(np.int64)

    @property
    def row_numbers(self) -> Integers:
        """Which row of that block."""
        return (self.places & ROW_MASK).astype(np.int64)

    @cached_property
    def shift(self) -> int:
        """How far a hash is shifted to give its bucket: about one entry a bucket."""
        return 64 - max(1, (len(self) - 1).bit_length())

    @cached_property
    def buckets(self) -> Indices:
        """Where each bucket starts, shape (buckets + 1,)."""
        bounds = np.arange(1 << (64 - self.shift), dtype=np.uint64) << np.uint64(self.shift)
        return np.append(np.searchsorted(self.hashes, bounds), len(self)).astype(np.int32)

    def find(self, keys: EncodedKeys | KeyRows, bases: Integers, found: Integers) -> None:
        """Look up the keys that no newer segment knew.

        Parameters
        ----------
        keys : EncodedKeys or KeyRows
            The keys, ``n`` of them.
        bases : ndarray of int64, shape (blocks,)
            Number of the first model of each of the segment's blocks.
        found : ndarray of int64, shape (n,)
            Model numbers, :data:`~shoal.table.hashing.ABSENT` where still unknown; written in place.
        """
        if not len(self):
            return
        index = self.entries, self.keys.data, self.buckets, self.shift, bases, found
        if isinstance(keys, KeyRows):
            find_rows(keys.columns, keys.buffers, *index)
        else:
            find_keys(keys.data, keys.offsets, *index)

    def table(self) -> pa.RecordBatch:
        """The segment as it is stored."""
        text = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(self), [None, pa.py_buffer(self.keys.offsets), pa.py_buffer(self.keys.data)]
        )
        entries = pa.FixedSizeListArray.from_arrays(pa.array(self.entries.reshape(-1)), self.entries.shape[1])
        return pa.record_batch([entries, text], names=["entry", "key"])

    @classmethod
    def from_table(cls, batch: pa.RecordBatch) -> "Segment":
        """Read a stored segment without copying it.

        Raises
        ------
        InvalidArtifact
            The columns are not those of an index.
        """
        expected = [("entry", pa.list_(pa.uint64(), 4)), ("key", pa.large_binary())]
        if [(field.name, field.type) for field in batch.schema] != expected:
            raise InvalidArtifact(f"an index segment's columns {batch.schema.names} are not those of an index")
        entries, text = batch.columns
        if entries.null_count or text.null_count or entries.values.null_count:
            raise InvalidArtifact("an index segment has missing values")
        _, offsets, data = text.buffers()
        return cls(
            entries=cast("Words", np.from_dlpack(entries.flatten())).reshape(-1, 4),
            keys=EncodedKeys(
                data=np.frombuffer(data, dtype=np.uint8) if data else np.empty(0, np.uint8),
                offsets=np.frombuffer(offsets, dtype=np.int64)[text.offset : text.offset + len(text) + 1],
            ),
        )

    def validate(self, block_rows: Sequence[int]) -> None:
        """Check everything that a search follows.

        Parameters
        ----------
        block_rows : sequence of int
            Models in each of the segment's blocks.

        Raises
        ------
        InvalidArtifact
            Offsets out of order or range, hashes unsorted or not those of their keys, or places out of range.
        """
        offsets = self.keys.offsets
        if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] > len(self.keys.data):
            raise InvalidArtifact("an index segment's key offsets are out of order or out of range")
        spans = np.stack([offsets[:-1], offsets[1:]], axis=1).astype(np.uint64)
        if not np.array_equal(self.entries[:, START:], spans):
            raise InvalidArtifact("an index segment's entries do not start and stop where their keys do")
        if (self.hashes[1:] < self.hashes[:-1]).any():
            raise InvalidArtifact("an index segment's hashes are not sorted")
        if not np.array_equal(hash_of(self.keys), self.hashes):
            raise InvalidArtifact("an index segment's hashes are not those of its keys")
        live = ~self.removed
        blocks, rows = self.block_numbers[live], self.row_numbers[live]
        counts = np.asarray(block_rows, dtype=np.int64)
        if (blocks >= len(counts)).any() or (rows >= counts[blocks]).any():
            raise InvalidArtifact("an index segment points behind the end of a block")


def hash_of(keys: EncodedKeys) -> Words:
    """XXH64 of every key."""
    hashes = np.empty(len(keys), dtype=np.uint64)
    hash_keys(keys.data, keys.offsets, 0, len(keys), hashes)
    return hashes


def build(keys: EncodedKeys, places: Words) -> Segment:
    """Sort keys and their places into a segment.

    Raises
    ------
    InvalidInput
        A key occurs twice.
    """
    hashes = hash_of(keys)
    order = np.argsort(hashes, kind="stable")
    sorted_keys = take(keys, order)
    spans = (sorted_keys.offsets[:-1].astype(np.uint64), sorted_keys.offsets[1:].astype(np.uint64))
    segment = Segment(entries=np.stack([hashes[order], places[order], *spans], axis=1), keys=sorted_keys)
    _refuse_twins(segment)
    return segment


def take(keys: EncodedKeys, order: Integers) -> EncodedKeys:
    """The chosen keys, in that order."""
    text = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(keys), [None, pa.py_buffer(keys.offsets), pa.py_buffer(keys.data)]
    ).take(pa.array(order))
    _, offsets, data = text.buffers()
    return EncodedKeys(
        data=np.frombuffer(data, dtype=np.uint8) if data else np.empty(0, np.uint8),
        offsets=np.frombuffer(offsets, dtype=np.int64)[: len(order) + 1].copy(),
    )


def concatenate(parts: Sequence[EncodedKeys]) -> EncodedKeys:
    """Keys of several parts, one part behind the other."""
    ends = np.cumsum([0, *(int(part.offsets[-1]) for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, ends, strict=False)]
    return EncodedKeys(
        data=np.concatenate([np.empty(0, np.uint8), *(part.data[: part.offsets[-1]] for part in parts)]),
        offsets=np.concatenate([*offsets, ends[-1:]]).astype(np.int64),
    )


def _refuse_twins(segment: Segment) -> None:
    """Equal hashes are rare, so the few neighbours that share one are compared by hand."""
    data, offsets = segment.keys.data, segment.keys.offsets
    twins = np.flatnonzero(segment.hashes[1:] == segment.hashes[:-1])
    for start in twins:
        one = data[offsets[start] : offsets[start + 1]].tobytes()
        for other in range(int(start) + 1, len(segment)):
            if segment.hashes[other] != segment.hashes[start]:
                break
            if data[offsets[other] : offsets[other + 1]].tobytes() == one:
                raise InvalidInput(
                    f"two models have the same level and key (canonical bytes {one!r}): keep one of them"
                )
