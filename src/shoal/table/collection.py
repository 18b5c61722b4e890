"""Which files of a store are still needed, and deleting the others."""

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal.storage.files import storage_errors
from shoal.table import manifest as manifests
from shoal.table.store import SnapshotStore, read_limited


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a collection deleted, or would delete.

    Attributes
    ----------
    files : tuple of Path
        The files.
    size_bytes : int
        Their size together.
    """

    files: tuple[Path, ...]
    size_bytes: int


@contextlib.contextmanager
def writing(store: SnapshotStore) -> Iterator[None]:
    """Hold off collections while files are written that no registered snapshot names yet."""
    with _locked(store, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def collecting(store: SnapshotStore) -> Iterator[None]:
    """Wait for writers to end and hold off new ones."""
    with _locked(store, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _locked(store: SnapshotStore, mode: int) -> Iterator[None]:
    path = store.root / "lock"
    with storage_errors(path):
        store.root.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file, storage_errors(path):
        # The operating system lets go of the lock when a process dies, so a crash blocks nobody.
        fcntl.flock(file, mode)
        yield


def collect(store: SnapshotStore, keep: Iterable[str], *, dry_run: bool) -> Collected:
    """Delete every file that none of the kept snapshots names; call it within :func:`collecting`.

    Parameters
    ----------
    store : SnapshotStore
        The folder.
    keep : iterable of str
        Digests of manifests.
    dry_run : bool
        Only say what would be deleted.

    Raises
    ------
    NotFound, InvalidArtifact
        A kept manifest is missing or damaged; nothing is deleted then.
    """
    needed = {path for digest in keep for path in _files(store, digest)}
    present = [
        p for folder in ("blocks", "indexes", "snapshots") for p in (store.root / folder).glob("*") if p.is_file()
    ]
    doomed = tuple(sorted(path for path in present if path not in needed))
    size = sum(path.stat().st_size for path in doomed)
    if not dry_run:
        for path in doomed:
            with storage_errors(path):
                path.unlink(missing_ok=True)
    return Collected(files=doomed, size_bytes=size)


def _files(store: SnapshotStore, digest: str) -> Iterator[Path]:
    path = store.manifest_path(digest)
    manifest = manifests.decode(read_limited(path, "snapshot"))
    yield path
    for block in manifest.blocks:
        yield store.block_path(block.digest)
    for segment in manifest.segments:
        yield store.segment_path(segment.digest)
