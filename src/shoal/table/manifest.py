"""The manifest of a snapshot: what it consists of, in JSON.

Format 1. To change it: add 1 to :data:`FORMAT`, keep :class:`Manifest` as ``Manifest1`` with a function that turns it
into the new one, and add a manifest of the old format to the tests' data with a test that still opens it.
"""

import datetime as dt
import re

import msgspec

from shoal.errors import InvalidArtifact
from shoal.storage.decoding import decodable
from shoal.types import Feature, KeyColumn, Label, Level, Task

FORMAT = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
MOST_BYTES = 64 * 2**20


class BlockEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A block of the snapshot: its file's sha256 and size, how many models it has and of which family."""

    digest: str
    size_bytes: int
    models: int
    family: str


class SegmentEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A segment of the index: its file, its entries, and which of the snapshot's blocks it counts."""

    digest: str
    size_bytes: int
    entries: int
    blocks: tuple[int, ...]


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An output column: its name and type as users see them."""

    name: str
    type: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a snapshot consists of.

    Attributes
    ----------
    format : int
        Number of the format.
    fleet : str
        Name of the fleet.
    task, keys, levels, features, labels
        As in :class:`~shoal.table.models.ModelTable`.
    outputs : tuple of Output
        The columns that predictions have beside the keys.
    models : int
        Live models.
    blocks, segments
        The files, segments newest first.
    created_at : datetime
        When, in UTC.
    created_by : str
        Who.
    run : str or None
        The run that made it.
    """

    format: int
    fleet: str
    task: Task
    keys: tuple[KeyColumn, ...]
    levels: tuple[Level, ...]
    features: tuple[Feature, ...]
    labels: tuple[Label, ...]
    outputs: tuple[Output, ...]
    models: int
    blocks: tuple[BlockEntry, ...]
    segments: tuple[SegmentEntry, ...]
    created_at: dt.datetime
    created_by: str
    run: str | None = None


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def decode(data: bytes) -> Manifest:
    """Read a manifest and check that it holds together.

    Raises
    ------
    InvalidArtifact
        Malformed, of an unknown format, or with parts that do not fit each other.
    """
    try:
        number = msgspec.json.decode(data, type=dict).get("format")
        if number != FORMAT:
            raise InvalidArtifact(
                f"a manifest has format {number!r}; this version of Shoal reads {FORMAT}: update Shoal"
            )
        manifest = msgspec.json.decode(data, type=decodable(Manifest))
    except msgspec.MsgspecError as error:
        raise InvalidArtifact(f"a manifest cannot be read: {error}") from error
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    names = [column.name for column in manifest.keys]
    if len(set(names)) != len(names) or any(set(level) - set(names) for level in manifest.levels):
        raise InvalidArtifact("a manifest's levels do not fit its key columns")
    files: tuple[BlockEntry | SegmentEntry, ...] = (*manifest.blocks, *manifest.segments)
    for entry in files:
        # A digest becomes a file name: anything else could point out of the folder.
        if not _DIGEST.fullmatch(entry.digest) or entry.size_bytes < 0:
            raise InvalidArtifact(f"a manifest names a file {entry.digest[:80]!r}, which is no sha256")
    if any(not 0 <= number < len(manifest.blocks) for entry in manifest.segments for number in entry.blocks):
        raise InvalidArtifact("a manifest's index counts blocks that are not there")


def outputs_of(task: Task, labels: tuple[Label, ...]) -> tuple[Output, ...]:
    """The output columns of a task."""
    if task is Task.REGRESSION:
        return (Output(name="prediction", type="float64"),)
    if task is Task.ANOMALY:
        return (Output(name="score", type="float64"), Output(name="is_anomaly", type="boolean"))
    kind = {str: "string", int: "int64", bool: "boolean"}[type(labels[0])] if labels else "string"
    return (Output(name="prediction", type=kind), Output(name="probability", type=f"float64[{len(labels)}]"))
