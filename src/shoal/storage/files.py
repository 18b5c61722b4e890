"""Files that are there whole or not at all, also after a power cut."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import StorageError

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "your disk quota is used up; free some space and run the command again",
    errno.EFBIG: "the file would pass the largest size allowed here; raise it (ulimit -f) and run the command again",
    errno.EACCES: "permission denied; choose a folder you may write to, e.g. with SHOAL_HOME",
    errno.EPERM: "not permitted; choose a folder you may write to, e.g. with SHOAL_HOME",
    errno.EROFS: "the file system is read-only; choose another folder, e.g. with SHOAL_HOME",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and run the command again",
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors inside the block into :class:`StorageError` with advice.

    Parameters
    ----------
    path : Path
        What the block works on, for the message.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"{path}: {advice}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part, whatever happens.

    The folder is made when it is not there. When this returns, the file survives a power cut.

    Raises
    ------
    StorageError
        The disk is full or the folder not writable; ``path`` is as it was before.
    """
    with staged(path) as temporary, storage_errors(path):
        temporary.write_bytes(data)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; leaving the block without an error makes it ``path``, durably.

    Yields
    ------
    Path
        Where to write. It does not exist yet and is removed when the block fails.

    Raises
    ------
    StorageError
        The disk is full or the folder not writable; ``path`` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with storage_errors(path):
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Wait until no other process or thread is in a block with the same lock file, then run this one.

    The operating system lets go of the lock when a process dies, so a crash blocks nobody.

    Raises
    ------
    StorageError
        The file cannot be made.
    """
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        with storage_errors(lock):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_file(path: Path) -> None:
    """Force a file's content to the disk.

    Raises
    ------
    StorageError
        The disk refused; what was written may be lost.
    """
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (names made, renamed or removed in it) to the disk.

    Raises
    ------
    StorageError
        The disk refused; the entries may be lost.
    """
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits; reads it piece by piece.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    with storage_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path, flags: int) -> None:
    with storage_errors(path):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
