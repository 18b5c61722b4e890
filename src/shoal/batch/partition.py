"""Partition templates: which subfolder a row goes to, whatever its values try.

A value becomes one path segment: everything but letters, digits and ``-_.~ =+@,`` is percent-encoded, and so is a
leading dot or underscore, so that no value can climb out of the folder, hide, or pass for Shoal's own files. A missing
value is ``%null`` and an empty text ``%empty``, which no encoded value can be. Overlong values end in a digest.
"""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote

import polars as pl

from shoal.errors import InvalidSpec

_PIECE = re.compile(r"\{([^{}/]+)\}|([A-Za-z0-9_=+@,.\- ]+)")
_LONGEST = 200
_POSITION = "_position"


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A parsed partition template.

    Attributes
    ----------
    segments : tuple of tuple of (text, is_column)
        Per subfolder, its pieces: literal text or the name of a column.
    """

    segments: tuple[tuple[tuple[str, bool], ...], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Parse a template such as ``{category}/{date}/`` or ``kind={category}``.

        Raises
        ------
        InvalidSpec
            It names no column, or could leave the output folder.
        """
        if text.startswith("/") or not text.strip("/ "):
            raise InvalidSpec(f"field 'partition': {text!r} must be a relative path such as {{category}}/{{date}}/")
        template = cls(segments=tuple(_segment(part, text) for part in text.rstrip("/").split("/")))
        if not template.columns:
            raise InvalidSpec(f"field 'partition': {text!r} names no column; write e.g. {{category}}/")
        return template

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns named, each once, in order."""
        return tuple(dict.fromkeys(piece for segment in self.segments for piece, column in segment if column))

    def folder(self, values: dict[str, object]) -> str:
        """The subfolder for one combination of values, with ``/`` between its segments."""
        return "/".join(
            _bounded("".join(segment_of(values[piece]) if column else piece for piece, column in segment))
            for segment in self.segments
        )

    def split(self, frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
        """Rows by subfolder, in the order in which the subfolders first occur; rows keep their order.

        Different values never share a subfolder unless they are written alike.
        """
        by_folder: dict[str, list[pl.DataFrame]] = {}
        groups = frame.with_row_index(_POSITION).partition_by(self.columns, maintain_order=True, as_dict=True)
        for values, rows in groups.items():
            folder = self.folder(dict(zip(self.columns, values, strict=True)))
            by_folder.setdefault(folder, []).append(rows)
        return [(folder, _in_order(parts).drop(_POSITION)) for folder, parts in by_folder.items()]


def _in_order(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return parts[0] if len(parts) == 1 else pl.concat(parts).sort(_POSITION)


def segment_of(value: object) -> str:
    """One value as (part of) a path segment."""
    if value is None:
        return "%null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not text:
        return "%empty"
    encoded = quote(text.encode("utf-8", "surrogatepass"), safe=" =+@,")
    if encoded[0] in "._":
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    return encoded


def _bounded(segment: str) -> str:
    """File systems take names of 255 bytes: keep the start of a longer one and tell it apart by its digest."""
    if len(segment) <= _LONGEST:
        return segment
    return f"{segment[:_LONGEST]}%sha256-{hashlib.sha256(segment.encode()).hexdigest()[:32]}"


def _segment(part: str, text: str) -> tuple[tuple[str, bool], ...]:
    pieces: list[tuple[str, bool]] = []
    position = 0
    while position < len(part):
        match = _PIECE.match(part, position)
        if match is None:
            raise InvalidSpec(f"field 'partition': {text!r}: cannot read {part[position:]!r}; columns go in {{...}}")
        pieces.append((match[1], True) if match[1] else (match[2], False))
        position = match.end()
    if not pieces or (not pieces[0][1] and pieces[0][0][0] in "._ "):
        raise InvalidSpec(f"field 'partition': {text!r}: no subfolder may be empty or start with '.', '_' or a space")
    return tuple(pieces)
