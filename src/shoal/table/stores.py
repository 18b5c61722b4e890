"""The snapshot stores of a workspace: its own folder, and one for each category that has a place elsewhere."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from shoal.errors import NotFound
from shoal.table import collection
from shoal.table.collection import Collected
from shoal.table.store import SnapshotStore
from shoal.table.verified import VerifiedFiles


class Stores:
    """Finds the store of a snapshot.

    Parameters
    ----------
    default : Path
        The folder of the workspace's own store.
    verified : VerifiedFiles
        Which files were checked before, in whatever store.
    folders : callable
        Gives the folder of each category that has a store of its own, as it is now.
    """

    def __init__(self, default: Path, verified: VerifiedFiles, folders: Callable[[], Mapping[str, Path]]) -> None:
        self._verified = verified
        self._folders = folders
        self.default = SnapshotStore(default, verified)

    def of(self, category: str) -> SnapshotStore:
        """Where new snapshots of a category go."""
        folder = self._folders().get(category) if category else None
        return self.default if folder is None else SnapshotStore(folder, self._verified)

    def holding(self, digest: str) -> SnapshotStore:
        """The store that has a snapshot; a fleet may have moved to another category since it was written.

        Raises
        ------
        NotFound
            None has it; says where it was looked for.
        """
        looked = []
        for store in self:
            if store.has(digest):
                return store
            looked.append(str(store.root))
        raise NotFound(
            f"snapshot {digest[:12]} lies in none of the stores that are here; mount the store of its category, or set "
            "it: shoal stores set CATEGORY FOLDER",
            detail=f"looked in {', '.join(looked)}",
        )

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Wait for writers of all stores to end and hold off new ones.

        Raises
        ------
        NotFound
            The folder of a category's store is not there; it may be a disk that is not mounted.
        """
        with contextlib.ExitStack() as locks:
            for store in self:
                if store is not self.default and not store.root.is_dir():
                    raise NotFound(f"{store.root} is not there; mount the store of its category, then collect again")
                locks.enter_context(collection.collecting(store))
            yield

    def collect(self, keep: Iterable[str], *, dry_run: bool) -> Collected:
        """Delete every file that none of the kept snapshots names, in all stores; within :meth:`collecting`.

        Parameters
        ----------
        keep : iterable of str
            Digests of manifests.
        dry_run : bool
            Only say what would be deleted.

        Raises
        ------
        NotFound, InvalidArtifact
            A kept snapshot is in no store, or damaged; nothing is deleted then.
        """
        kept = set(keep)
        for digest in kept:
            self.holding(digest)
        parts = [(store, [digest for digest in kept if store.has(digest)]) for store in self]
        for store, own in parts:
            collection.collect(store, own, dry_run=True)
        found = [collection.collect(store, own, dry_run=dry_run) for store, own in parts]
        return Collected(
            files=tuple(path for one in found for path in one.files), size_bytes=sum(one.size_bytes for one in found)
        )

    def only_in(self, folder: Path, digests: Iterable[str]) -> list[str]:
        """Those of some snapshots that lie in a folder and in no other store."""
        there = SnapshotStore(folder, self._verified)
        others = [store for store in self if store.root != folder]
        return [one for one in digests if there.has(one) and not any(store.has(one) for store in others)]

    def __iter__(self) -> Iterator[SnapshotStore]:
        """All stores, the workspace's own first."""
        yield self.default
        for folder in self._folders().values():
            yield SnapshotStore(folder, self._verified)
