"""A folder of snapshots: content-addressed files that snapshots share, and manifests that name them.

::

    blocks/<sha256>.arrow       models of one layout, an Arrow IPC file with one record batch
    indexes/<sha256>.arrow      one segment of an index
    snapshots/<sha256>.json     a manifest

Files are written to a temporary name, synced, and renamed; the manifest comes last. A crash leaves at most files that
no manifest names, which ``gc`` removes.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from shoal.errors import InvalidArtifact, NotFound
from shoal.storage.files import file_sha256, storage_errors, sync_file, sync_folder, write_atomically
from shoal.table import manifest as manifests
from shoal.table.block import Block, bind
from shoal.table.index import Segment
from shoal.table.manifest import BlockEntry, Manifest, SegmentEntry
from shoal.table.models import ModelTable, Part
from shoal.table.validation import validate_block
from shoal.table.verified import VerifiedFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What writing a snapshot came to.

    Attributes
    ----------
    digest : str
        sha256 of the manifest: the snapshot's address.
    manifest : Manifest
        The manifest.
    table : ModelTable
        The same table, its blocks and segments now knowing their files.
    bytes_written : int
        Bytes of all files that were not there before.
    """

    digest: str
    manifest: Manifest
    table: ModelTable
    bytes_written: int


class SnapshotStore:
    """Snapshots in one folder.

    Parameters
    ----------
    root : Path
        The folder; made when first written to.
    verified : VerifiedFiles
        Which files were checked before.
    """

    def __init__(self, root: Path, verified: VerifiedFiles) -> None:
        self.root = root
        self.verified = verified

    def write(self, table: ModelTable, *, fleet: str, created_by: str, run: str | None = None) -> Written:
        """Store a table; files that are already there are not written again.

        Parameters
        ----------
        table : ModelTable
            The models.
        fleet : str
            Name of the fleet.
        created_by : str
            Who makes the snapshot.
        run : str, optional
            The run that made it.

        Raises
        ------
        StorageError
            The disk is full or the folder not writable; no snapshot came into being.
        """
        blocks = [self._write_block(block) for block in table.blocks]
        parts = [self._write_part(part) for part in table.parts]
        stored = dataclasses.replace(table, blocks=tuple(b for b, _ in blocks), parts=tuple(p for p, _ in parts))
        manifest = Manifest(
            format=manifests.FORMAT,
            fleet=fleet,
            task=table.task,
            keys=table.keys,
            levels=table.levels,
            features=table.features,
            labels=table.labels,
            outputs=manifests.outputs_of(table.task, table.labels),
            models=len(table),
            blocks=tuple(self._block_entry(block) for block in stored.blocks),
            segments=tuple(self._segment_entry(part) for part in stored.parts),
            created_at=dt.datetime.now(dt.UTC),
            created_by=created_by,
            run=run,
        )
        data = manifests.encode(manifest)
        digest = hashlib.sha256(data).hexdigest()
        write_atomically(self.manifest_path(digest), data)
        fresh = sum(size for _, size in blocks) + sum(size for _, size in parts) + len(data)
        return Written(digest=digest, manifest=manifest, table=stored, bytes_written=fresh)

    def open(self, digest: str) -> tuple[ModelTable, Manifest]:
        """Map a snapshot; files not met before on this machine are checked completely first.

        Raises
        ------
        NotFound
            No such snapshot here.
        InvalidArtifact
            A file is damaged, tampered with or crafted.
        """
        manifest = self.manifest(digest)
        return self.open_manifest(manifest), manifest

    def manifest(self, digest: str) -> Manifest:
        """Read the manifest of a snapshot and nothing else; its files may be damaged or gone.

        Raises
        ------
        NotFound
            No such snapshot here.
        InvalidArtifact
            The manifest is damaged or tampered with.
        """
        path = self.manifest_path(digest)
        data = read_limited(path, "snapshot")
        if hashlib.sha256(data).hexdigest() != digest:
            raise InvalidArtifact(f"{path}: its sha256 is not its name; restore it from a backup")
        return manifests.decode(data)

    def open_manifest(self, manifest: Manifest) -> ModelTable:
        """Map the files of a manifest that was already read; raises as :meth:`open` does."""
        blocks = tuple(self._open_block(entry, manifest) for entry in manifest.blocks)
        parts = tuple(self._open_part(entry, manifest) for entry in manifest.segments)
        return ModelTable(
            keys=manifest.keys,
            levels=manifest.levels,
            features=manifest.features,
            task=manifest.task,
            labels=manifest.labels,
            blocks=blocks,
            parts=parts,
        )

    def has(self, digest: str) -> bool:
        """Whether a snapshot lies here."""
        return self.manifest_path(digest).is_file()

    def manifest_path(self, digest: str) -> Path:
        """Where a snapshot's manifest lies."""
        return self.root / "snapshots" / f"{digest}.json"

    def block_path(self, digest: str) -> Path:
        """Where a block lies."""
        return self.root / "blocks" / f"{digest}.arrow"

    def segment_path(self, digest: str) -> Path:
        """Where a segment of an index lies."""
        return self.root / "indexes" / f"{digest}.arrow"

    def _block_entry(self, block: Block) -> BlockEntry:
        assert block.digest
        size = self.block_path(block.digest).stat().st_size
        family = block.header.layout.family
        return BlockEntry(digest=block.digest, size_bytes=size, models=len(block), family=family)

    def _segment_entry(self, part: Part) -> SegmentEntry:
        assert part.digest
        size = self.segment_path(part.digest).stat().st_size
        return SegmentEntry(digest=part.digest, size_bytes=size, entries=len(part.segment), blocks=part.blocks)

    def _write_block(self, block: Block) -> tuple[Block, int]:
        digest, size = _write_batch(block.batch, self.block_path, block.digest)
        return dataclasses.replace(block, digest=digest, path=self.block_path(digest)), size

    def _write_part(self, part: Part) -> tuple[Part, int]:
        digest, size = _write_batch(part.segment.table(), self.segment_path, part.digest)
        return dataclasses.replace(part, digest=digest), size

    def _open_block(self, entry: BlockEntry, manifest: Manifest) -> Block:
        path = self.block_path(entry.digest)

        def bound() -> Block:
            return bind(_map_batch(path, entry.size_bytes), digest=entry.digest, path=path)

        def check() -> None:
            _check_digest(path, entry.digest)
            validate_block(bound())

        self.verified.ensure(path, entry.digest, check)
        block = bound()
        _check_block_fits(block, entry, manifest)
        return block

    def _open_part(self, entry: SegmentEntry, manifest: Manifest) -> Part:
        path = self.segment_path(entry.digest)
        rows = [manifest.blocks[number].models for number in entry.blocks]

        def mapped() -> Segment:
            return Segment.from_table(_map_batch(path, entry.size_bytes))

        def check() -> None:
            _check_digest(path, entry.digest)
            mapped().validate(rows)

        # What a segment may point to depends on the manifest, so its mark does too.
        context = hashlib.sha256(f"{entry.digest} {rows}".encode()).hexdigest()
        self.verified.ensure(path, context, check)
        return Part(segment=mapped(), blocks=entry.blocks, digest=entry.digest)


def read_limited(path: Path, what: str) -> bytes:
    """Read a manifest, refusing one that is absurdly large.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArtifact
        It is too large to be a manifest.
    """
    if not path.is_file():
        raise NotFound(f"there is no such {what}; restore the store's files", detail=str(path))
    if path.stat().st_size > manifests.MOST_BYTES:
        raise InvalidArtifact(f"{path}: {path.stat().st_size} bytes are too many for a manifest")
    with storage_errors(path):
        return path.read_bytes()


def _write_batch(batch: pa.RecordBatch, place: Callable[[str], Path], known: str | None) -> tuple[str, int]:
    if known and place(known).is_file():
        return known, 0
    temporary = place(f".{secrets.token_hex(8)}")
    try:
        with storage_errors(temporary):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with _HashingFile(temporary.open("wb")) as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                digest, size = file.digest(), file.tell()
            if place(digest).is_file():
                return digest, 0
            temporary.chmod(0o444)
            sync_file(temporary)
            temporary.replace(place(digest))
            sync_folder(temporary.parent)
    finally:
        with contextlib.suppress(OSError):  # whatever went wrong above is what the caller has to know
            temporary.unlink(missing_ok=True)
    return digest, size


class _HashingFile(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._hash.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _map_batch(path: Path, size_bytes: int) -> pa.RecordBatch:
    """Map an Arrow file with exactly one record batch."""
    if not path.is_file():
        raise InvalidArtifact(f"{path}: the file is missing; restore it from a backup")
    if path.stat().st_size != size_bytes:
        raise InvalidArtifact(f"{path}: {path.stat().st_size} bytes where the manifest says {size_bytes}; restore it")
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if reader.num_record_batches != 1:
                raise InvalidArtifact(f"{path}: {reader.num_record_batches} record batches where one is expected")
            return reader.get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise InvalidArtifact(f"{path}: not a readable Arrow file ({error}); restore it from a backup") from error


def _check_digest(path: Path, digest: str) -> None:
    if file_sha256(path) != digest:
        raise InvalidArtifact(f"{path}: its content was changed (sha256 is not its name); restore it from a backup")


def _check_block_fits(block: Block, entry: BlockEntry, manifest: Manifest) -> None:
    features = set(manifest.features)
    fits = (
        len(block) == entry.models
        and block.header.layout.task is manifest.task
        and set(block.header.layout.features) <= features
        and set(block.header.labels) <= set(manifest.labels)
    )
    if not fits:
        raise InvalidArtifact(
            f"block {entry.digest} does not fit the manifest: models, task, features or labels differ"
        )
