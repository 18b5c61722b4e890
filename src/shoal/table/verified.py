"""Which files were checked before on this machine, so that opening them again is only a memory map.

A mark says: the file with this device, inode, size, modification and change time held this digest and passed
validation. The change time cannot be set by hand, so a file that was edited and dated back is checked again. The marks
lie in a private folder: who can write there could replace the files themselves.
"""

import os
from collections.abc import Callable
from pathlib import Path

from shoal.errors import InvalidArtifact, StorageError
from shoal.storage.files import write_atomically


class VerifiedFiles:
    """Marks of checked files.

    Parameters
    ----------
    folder : Path
        Where the marks lie, 0700; made at the first mark.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ensure(self, path: Path, digest: str, check: Callable[[], None]) -> None:
        """Run ``check`` unless this very file passed it before.

        Parameters
        ----------
        path : Path
            The file.
        digest : str
            What its content must hash to.
        check : callable
            Raises if the file is not what it should be.

        Raises
        ------
        InvalidArtifact
            The file is missing, or ``check`` refused it.
        """
        if not path.is_file():
            raise InvalidArtifact(f"{path}: the file is missing; restore it from a backup")
        identity = self._identity(path, digest)
        mark = self.folder / digest
        if mark.is_file() and mark.read_text() == identity:
            return
        check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(mark, identity.encode())
        except (StorageError, OSError):
            # A read-only home costs a check at every opening, not the opening itself.
            return

    @staticmethod
    def _identity(path: Path, digest: str) -> str:
        stat = os.stat(path)  # noqa: PTH116 - one call for all fields
        times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
        return f"1 {digest} {stat.st_dev} {stat.st_ino} {stat.st_size} {times}"
