"""A folder of Parquet files that appear whole, each under a name that is used once.

Who publishes a file under a name, and who voids the name because its publisher seems to be gone, both create it, which
the file system allows to one of them only. So of a result that two workers believe to be theirs one is seen.
"""

import contextlib
import errno
import os
import secrets
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import InvalidArtifact, LeaseLost
from shoal.storage.files import storage_errors, sync_file, sync_folder


class SinkFolder:
    """Publishes frames as files.

    Parameters
    ----------
    folder : Path
        Made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def publish(self, part: str, name: str, frame: pl.DataFrame) -> None:
        """Make a frame visible, whole; it survives a power cut.

        Parameters
        ----------
        part : str
            Folder below the sink's.
        name : str
            The file's, without its ending.
        frame : DataFrame
            At least one row.

        Raises
        ------
        LeaseLost
            Somebody voided the name.
        StorageError
            The disk is full or the folder not writable; nothing is visible.
        """
        if not self._create(part, name, frame):
            raise LeaseLost(f"{name} was given up for lost and is written by another worker; drop this result")

    def was_published(self, part: str, name: str, like: pl.DataFrame) -> bool:
        """Whether a file was published under a name; if not, nobody can any more.

        Parameters
        ----------
        part, name : str
            As in :meth:`publish`.
        like : DataFrame
            Has the columns that the file would have.

        Raises
        ------
        StorageError
            The folder cannot be read or written.
        """
        return not self._create(part, name, like.clear()) and _rows(self._path(part, name)) > 0

    def _path(self, part: str, name: str) -> Path:
        return self._folder / part / f"{name}.parquet"

    def _create(self, part: str, name: str, frame: pl.DataFrame) -> bool:
        """Write a file under a name that is free; False if it is taken."""
        path = self._path(part, name)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                frame.write_parquet(temporary)
                sync_file(temporary)
                os.link(temporary, path)
            except FileExistsError:
                return False
            except pl.exceptions.ComputeError as error:
                raise OSError(errno.EIO, str(error)) from error
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
        return True


def _rows(path: Path) -> int:
    with storage_errors(path):
        try:
            rows: int = pq.read_metadata(path).num_rows
        except pa.ArrowInvalid as error:
            raise InvalidArtifact(f"{path}: not a Parquet file ({error}); move it away") from error
    return rows
