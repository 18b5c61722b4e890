"""Where snapshots lie: opening them, giving categories a folder of their own, and collecting what nothing refers to."""

from collections.abc import Mapping
from pathlib import Path

from shoal.batch.leftovers import files_below, find_leftovers, remove
from shoal.errors import Conflict, InvalidArtifact, NotFound, StorageError
from shoal.fleet import Fleet
from shoal.ledger import Ledger
from shoal.registry import Registry, SnapshotRecord
from shoal.settings import Settings
from shoal.storage.files import storage_errors
from shoal.table.collection import Collected
from shoal.table.manifest import Manifest
from shoal.table.store import SnapshotStore
from shoal.table.stores import Stores
from shoal.table.verified import VerifiedFiles


class Storehouse:
    """The stores of a workspace.

    Parameters
    ----------
    registry : Registry
        Which snapshots there are, and which categories have a folder of their own.
    ledger : Ledger
        Which snapshots runs have pinned.
    settings : Settings
        Where things lie, and in whose name changes are made.
    folders : mapping of str to Path, optional
        The folders of the categories' stores as another process knew them; they count while the registry is away.

    Attributes
    ----------
    folders : mapping of str to Path
        The folders of the categories' stores as the registry last told them.
    """

    def __init__(
        self, registry: Registry, ledger: Ledger, settings: Settings, folders: Mapping[str, Path] | None = None
    ) -> None:
        self.folders = folders or {}
        self._registry = registry
        self._ledger = ledger
        self._home = settings.home
        self._actor = settings.actor
        verified = VerifiedFiles(settings.home / "cache" / "verified")
        self._stores = Stores(settings.home / "store", verified, self._folders)

    def _folders(self) -> Mapping[str, Path]:
        try:
            self.folders = {one.category: Path(one.folder) for one in self._registry.stores()}
        except StorageError:
            if not self.folders:
                raise
        return self.folders

    def store_of(self, category: str) -> SnapshotStore:
        """Where the next snapshots of a category go."""
        return self._stores.of(category)

    def manifest(self, snapshot: SnapshotRecord) -> Manifest:
        """A snapshot's manifest.

        Raises
        ------
        InvalidArtifact
            It is damaged.
        """
        return self._stores.holding(snapshot.digest).manifest(snapshot.digest)

    def open(self, snapshot: SnapshotRecord) -> Fleet:
        """Map a snapshot.

        Raises
        ------
        InvalidArtifact
            A file of it is damaged, tampered with or crafted.
        """
        table, _ = self._stores.holding(snapshot.digest).open(snapshot.digest)
        return Fleet(table, name=snapshot.fleet, version=snapshot.version)

    def require_opens(self, snapshot: SnapshotRecord) -> None:
        """Refuse what no server could serve.

        Raises
        ------
        Conflict
            The snapshot lies in a store that is here, and cannot be opened.
        """
        try:
            store = self._stores.holding(snapshot.digest)
        except NotFound:  # whoever promotes need not have mounted every store; the servers tell what they find
            return
        try:
            store.open(snapshot.digest)
        except (InvalidArtifact, NotFound) as error:
            raise Conflict(
                f"{snapshot.reference} cannot be opened, so nothing could serve it and the alias stays where it is; "
                "restore the snapshot's files, or promote another one",
                detail=str(error),
            ) from error

    def collect(self, *, dry_run: bool) -> Collected:
        """Delete the snapshots that no alias names or named, no active run pinned, and that are not the newest.

        Runs whose time to be resumed is over end, and what runs that have ended left behind goes as well.

        Parameters
        ----------
        dry_run : bool
            Only say which unreferenced files would go; no snapshot is given up, no run ended.
        """
        if not dry_run:
            self._ledger.expire_overdue()
        leftovers = find_leftovers(self._ledger, self._home)
        with self._stores.collecting():
            active = self._ledger.pinned()
            if not dry_run:
                self._registry.collect(active=active, actor=self._actor)
            collected = self._stores.collect(self._registry.referenced(active=active), dry_run=dry_run)
        sizes = files_below(leftovers)
        if not dry_run:
            remove(leftovers)
        return Collected(files=(*collected.files, *sizes), size_bytes=collected.size_bytes + sum(sizes.values()))

    def set_store(self, category: str, folder: str | Path | None) -> None:
        """Keep the next snapshots of a category's fleets in a folder; None: where all others are.

        Snapshots that exist stay where they are; while they are in use, the folder they lie in cannot be given up.

        Raises
        ------
        InvalidInput
            The category's name is not safe.
        NotFound
            The category has no store that could be given up.
        Conflict
            Snapshots that are in use lie in the folder that the category has now, and nowhere else.
        """
        before = self._folders().get(category)
        after = None if folder is None else Path(folder).absolute()
        if before is None and after is None:
            raise NotFound(f"the category {category!r} has no store of its own; see `shoal stores list`")
        if before is not None and before != after:
            used = self._stores.only_in(before, self._registry.referenced(active=self._ledger.pinned()))
            if used:
                raise Conflict(
                    f"{len(used)} snapshot(s) in use lie in {before} and nowhere else; copy that folder to "
                    f"{after or self._stores.default.root} first"
                )
        if after is not None:
            with storage_errors(after):
                after.mkdir(parents=True, exist_ok=True)
        self._registry.set_store(category, None if after is None else str(after), actor=self._actor)
