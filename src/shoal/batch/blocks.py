"""A text file in blocks of bounded size that end where a record ends, so that each can be read alone."""

from collections.abc import Iterator
from pathlib import Path

#: A record may grow to so many blocks before it counts as one that never ends.
LONGEST_BLOCKS = 4


class EndlessRecord(Exception):
    """A record is longer than what may be held in memory, as after a quote that is never closed."""


def line_blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Blocks of whole lines.

    Parameters
    ----------
    path : Path
        The file.
    block_bytes : int
        Size of a block; one line that is longer makes a longer one.

    Raises
    ------
    EndlessRecord
        A line is longer than :data:`LONGEST_BLOCKS` blocks.
    """
    return _blocks(path, block_bytes, quotes=False)


def csv_blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Blocks of whole records, each beginning with the file's header; line ends inside quotes end no record.

    Quotes are counted, wherever they stand: that is how Polars finds the ends of records.

    Parameters
    ----------
    path : Path
        The file.
    block_bytes : int
        Size of a block without the header.

    Raises
    ------
    EndlessRecord
        A record is longer than :data:`LONGEST_BLOCKS` blocks.
    """
    header = b""
    for number, block in enumerate(_blocks(path, block_bytes, quotes=True)):
        yield header + block if number else block
        header = header if number else _header(block)


def _header(block: bytes) -> bytes:
    """The first record that is not empty, with all that stands before it."""
    start = len(block) - len(block.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n"))
    end = block.find(b"\n", start) + 1
    while end and block.count(b'"', start, end) % 2:
        end = block.find(b"\n", end) + 1
    return block[:end] if end else block


def _blocks(path: Path, block_bytes: int, *, quotes: bool) -> Iterator[bytes]:
    rest, inside = b"", False
    with path.open("rb") as file:
        while chunk := file.read(block_bytes):
            end = _last_end(chunk, inside=inside) if quotes else chunk.rfind(b"\n") + 1
            if end:
                yield rest + chunk[:end]
                rest, inside = chunk[end:], False
                chunk = rest
            else:
                rest += chunk
            if len(rest) > LONGEST_BLOCKS * block_bytes:
                raise EndlessRecord
            inside ^= quotes and chunk.count(b'"') % 2 == 1
    if rest:
        yield rest


def _last_end(chunk: bytes, *, inside: bool) -> int:
    """Behind the last line end that no quotes enclose; 0 where there is none."""
    end = len(chunk)
    inside ^= chunk.count(b'"') % 2 == 1
    while (newline := chunk.rfind(b"\n", 0, end)) >= 0:
        inside ^= chunk.count(b'"', newline, end) % 2 == 1
        if not inside:
            return newline + 1
        end = newline
    return 0
