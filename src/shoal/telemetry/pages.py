"""Pages of memory that one process writes and its relatives read, whole or not at all.

A page is an unnamed file in memory whose descriptor is inherited, so there is nothing to find, to name or to clean up,
and a read-only disk does not matter. It has two halves: the writer fills the one that is not in use and then says so
in the header. A checksum tells a reader that the writer came round twice meanwhile; it looks again.
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from typing import Final

_HEADER: Final = struct.Struct("<QQLL")
_START: Final = 64
_HALF_BYTES: Final = 16 << 20
_TRIES: Final = 5
_AT: Final = struct.Struct("<d")


def new_page() -> int:
    """Make a page.

    Returns
    -------
    int
        Its file descriptor, to be inherited by the processes that write and read it.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("shoal", 0)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Page:
    """A page by its descriptor.

    Parameters
    ----------
    descriptor : int
        As :func:`new_page` gave it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes) -> None:
        """Replace the content; one process writes a page.

        Raises
        ------
        ValueError
            It is larger than a page may be.
        """
        if len(content) > _HALF_BYTES:
            raise ValueError(f"a page holds {_HALF_BYTES} bytes, not {len(content)}")
        before = self._header()[0]
        start = _START if before != _START else _START + _HALF_BYTES
        os.pwrite(self._descriptor, content, start)
        header = _HEADER.pack(start, len(content), zlib.crc32(content), 0)
        os.pwrite(self._descriptor, header, 0)

    def read(self) -> bytes | None:
        """The content; None while there is none, or when it changes faster than it can be read."""
        for _ in range(_TRIES):
            start, size, checksum, _ = self._header()
            if start == 0:
                return None
            content = os.pread(self._descriptor, size, start)
            if len(content) == size and zlib.crc32(content) == checksum:
                return content
        return None

    def _header(self) -> tuple[int, int, int, int]:
        raw = os.pread(self._descriptor, _HEADER.size, 0)
        start, size, checksum, spare = _HEADER.unpack(raw) if len(raw) == _HEADER.size else (0, 0, 0, 0)
        return start, size, checksum, spare


def stamped(at_s: float, content: bytes) -> bytes:
    """Content for a page that says when it was true, by ``time.monotonic()``, which processes of a machine share."""
    return _AT.pack(at_s) + content


def newest_stamped(pages: Sequence[Page]) -> tuple[float, memoryview] | None:
    """Time and content of the page whose stamp is the newest; None where nothing is on any yet."""
    contents = [content for page in pages if (content := page.read())]
    if not contents:
        return None
    newest = max(contents, key=_at_s)
    return _at_s(newest), memoryview(newest)[_AT.size :]


def _at_s(content: bytes) -> float:
    at_s: float = _AT.unpack_from(content)[0]
    return at_s
