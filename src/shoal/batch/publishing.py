"""Making a run's output visible: whole, at once, and so that the output itself knows which run it is of.

All parts lie in a staging folder beside the output. A folder becomes visible by one rename, a file by one rename or
link. Both carry the run's id (``_shoal.json`` in a folder; for a file ``<output>.shoal.json``, which is put there
first and names the digest of the file that it is about), so a run that was killed between the rename and its last
word in the ledger finds out by looking.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from shoal.batch.spec import ScoreSpec
from shoal.errors import InvalidSpec, OutputExists
from shoal.storage.decoding import decodable
from shoal.storage.files import exclusive, storage_errors, sync_file, sync_folder, write_atomically

RECORD = "_shoal.json"
ERRORS = "_errors.jsonl"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

Checkpoint: TypeAlias = Callable[[str], None]
"""Called with the name of each step that is about to be taken."""


class PublishedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the output: its path below the folder, rows, and sha256."""

    path: str
    rows: int
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What an output says of itself: run, fleet, snapshot, rows, files; for a single file its digest."""

    run: str
    fleet: str
    snapshot: int
    rows: int
    files: tuple[PublishedFile, ...]


class Destination:
    """The output of a run, and the folder beside it where its parts are staged.

    Parameters
    ----------
    spec : ScoreSpec
        The job.
    run : str
        The run's id.
    locks : Path
        Folder of locks that all runs of a home share.
    """

    def __init__(self, spec: ScoreSpec, run: str, locks: Path) -> None:
        self.spec = spec
        self.run = run
        self._locks = locks
        self.path = Path(spec.output).expanduser().absolute()
        self.staging = self.path.parent / f".{self.path.name}.shoal-{run}"

    @property
    def errors(self) -> Path:
        """Where the rows that could not be scored are listed."""
        if self.spec.single_file:
            return self.path.with_name(f"{self.path.name}.errors.jsonl")
        return self._folder / ERRORS

    @property
    def _folder(self) -> Path:
        return self.path / f"run={self.run}" if self._appends else self.path

    @property
    def _appends(self) -> bool:
        return self.spec.if_exists == "append"

    def require_free(self) -> None:
        """Refuse early what could not be published later.

        Raises
        ------
        OutputExists
            The output is there and may not be replaced, or cannot be appended to.
        """
        if not self.path.exists() or self.spec.if_exists == "replace":
            self._require_replaceable()
            return
        if self._appends:
            if not self.path.is_dir():
                raise OutputExists(f"{self.path} is a file and cannot be appended to; name a folder")
            self._require_replaceable()
            return
        if self.path.is_dir() and not any(self.path.iterdir()):
            return
        raise OutputExists(
            f"{self.path} is already there; choose another output, or say if_exists: replace"
            + ("" if self.spec.single_file else " or append")
        )

    def require_apart(self, inputs: Iterable[str]) -> None:
        """Refuse an output that would take the place of input, or be read as input by the next run.

        Parameters
        ----------
        inputs : iterable of str
            Files, folders and globs as the job names them.

        Raises
        ------
        InvalidSpec
            Names the two.
        """
        for text in inputs:
            path = Path(text).expanduser().absolute()
            holds = path == self.path or self.path in path.parents or (path.is_dir() and path in self.path.parents)
            if holds or self.path.match(str(path)):
                raise InvalidSpec(f"the output {self.path} and the input {text} overlap; choose an output beside it")

    def _require_replaceable(self) -> None:
        """A folder that Shoal did not write is not replaced: it may be somebody's home."""
        folder = self.path.is_dir()
        if folder and self.spec.single_file:
            raise OutputExists(f"{self.path} is a folder, but the output is to be a file; choose another name")
        ours = (self.path / RECORD).is_file() or any(self.path.glob(f"run=*/{RECORD}")) if folder else True
        if folder and any(self.path.iterdir()) and not ours:
            raise OutputExists(f"{self.path} holds files that no Shoal run wrote; choose another folder")

    def is_published(self) -> bool:
        """Whether the output at its place is this run's."""
        if not self.spec.single_file:
            record = self._read(self._folder / RECORD)
            return record is not None and record.run == self.run
        record = self._read(self._sidecar)
        if record is None or record.run != self.run or not self.path.is_file():
            return False
        return _sha256(self.path) == record.files[0].sha256

    @staticmethod
    def _read(path: Path) -> Record | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=decodable(Record))
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def _sidecar(self) -> Path:
        return self.path.with_name(f"{self.path.name}.shoal.json")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Publish while no other run of this home publishes to the same place, nor another process this run."""
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:32]
        with exclusive(self._locks / name):
            yield

    def publish_folder(self, record: Record, errors: Sequence[Path], checkpoint: Checkpoint) -> None:
        """Make the staged files visible as a folder.

        Raises
        ------
        OutputExists
            Somebody else put something there meanwhile.
        StorageError
            The disk is full; nothing is visible.
        """
        self._keep_only({file.path for file in record.files})
        if errors:
            concatenate(errors, self.staging / ERRORS)
        write_atomically(self.staging / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))
        for folder in {path.parent for path in self.staging.rglob("*")}:
            sync_folder(folder)
        checkpoint("staged")
        with storage_errors(self.path):
            self._rename_folder()
        sync_folder(self.path.parent)

    def _keep_only(self, names: Iterable[str]) -> None:
        """Remove what workers left that lost their lease."""
        kept = set(names)
        for path in self.staging.rglob("*"):
            if path.is_file() and str(path.relative_to(self.staging)) not in kept:
                path.unlink()

    def _rename_folder(self) -> None:
        if self._appends:
            self.path.mkdir(exist_ok=True)
            self.staging.rename(self._folder)
        elif self.spec.if_exists == "replace" and self.path.exists():
            exchange(self.staging, self.path)
            shutil.rmtree(self.staging)
        else:
            try:
                self.staging.rename(self.path)  # an empty folder gives way, any other does not
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise OutputExists(f"{self.path} came into being meanwhile; choose another output") from error

    def publish_file(self, record: Record, merged: Path, errors: Sequence[Path], checkpoint: Checkpoint) -> None:
        """Make one staged file visible as the output; raises as :meth:`publish_folder` does."""
        sync_file(merged)
        file = PublishedFile(path=self.path.name, rows=record.rows, sha256=_sha256(merged))
        self.require_free()
        if errors:
            concatenate(errors, self.errors)
        elif self.spec.if_exists == "replace":
            self.errors.unlink(missing_ok=True)
        described = msgspec.structs.replace(record, files=(file,))
        write_atomically(self._sidecar, msgspec.json.format(msgspec.json.encode(described), indent=1))
        checkpoint("described")
        with storage_errors(self.path):
            if self.spec.if_exists == "replace":
                merged.replace(self.path)
            else:
                try:
                    os.link(merged, self.path)  # unlike a rename, a link never replaces
                except FileExistsError as error:
                    for beside in (self._sidecar, self.errors):  # they would be about a file that is not ours
                        beside.unlink(missing_ok=True)
                    raise OutputExists(f"{self.path} came into being meanwhile; choose another output") from error
        sync_folder(self.path.parent)

    def clear(self) -> None:
        """Remove the staging folder."""
        shutil.rmtree(self.staging, ignore_errors=True)


def exchange(one: Path, other: Path) -> None:
    """Swap two folders: in one step on Linux, in two elsewhere, between which neither is at its place."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(other))
    aside = other.with_name(f".{other.name}.replaced")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def concatenate(sources: Sequence[Path], target: Path) -> None:
    """Write files one behind the other into one, durably."""
    temporary = target.with_name(f".{target.name}.part")
    with storage_errors(target):
        with temporary.open("wb") as out:
            for source in sources:
                with source.open("rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
        sync_file(temporary)
        temporary.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
