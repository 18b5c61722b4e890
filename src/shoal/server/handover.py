"""What a process of the server knows of the registry, for one that takes a dead one's place while the registry is away.

Each process writes it to a page of memory that outlives it, see :mod:`shoal.telemetry.pages`.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from shoal.registry import SnapshotRecord
from shoal.security.api_keys import ApiKeyRecord
from shoal.server.authentication import KeyRing
from shoal.serving.desired import Known, Wanted
from shoal.serving.plane import DataPlane
from shoal.telemetry.pages import Page, newest_stamped, stamped
from shoal.types import Json
from shoal.workspace import Workspace

WRITE_S: Final = 0.5
"""Seconds between two looks whether there is something to write."""

_log = logging.getLogger("shoal.server")


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a process knew.

    Attributes
    ----------
    known : Known
        What should be served, what was, and when the registry said so.
    keys : tuple of ApiKeyRecord
        The API keys.
    folders : mapping of str to Path
        The folders of the categories that have a store of their own.
    """

    known: Known
    keys: tuple[ApiKeyRecord, ...]
    folders: Mapping[str, Path]


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """As :class:`Wanted`, whose JSON has a type that cannot be read back by itself."""

    fleet: str
    snapshot: SnapshotRecord | None
    loaded: bool
    spec: dict[str, object]
    sources: dict[str, dict[str, object]]
    reason: str
    alias: str


class _Written(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    wanted: list[_Wanted]
    served: list[_Wanted]
    keys: tuple[ApiKeyRecord, ...]
    folders: dict[str, str]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Written)


def newest(pages: Sequence[Page]) -> Handover | None:
    """What the process knew that heard from the registry last; None where none has yet."""
    found = newest_stamped(pages)
    if found is None:
        return None
    at_s, content = found
    written = _decoder.decode(content)
    served = {one.fleet: _read(one) for one in written.served}
    return Handover(
        known=Known(at_s=at_s, wanted=tuple(map(_read, written.wanted)), served=served),
        keys=written.keys,
        folders={category: Path(folder) for category, folder in written.folders.items()},
    )


class Scribe:
    """Writes down what this process knows, again and again.

    Parameters
    ----------
    page : Page
        This process's.
    plane : DataPlane
        What is served.
    ring : KeyRing
        The API keys.
    workspace : Workspace
        Where the stores are.
    """

    def __init__(self, page: Page, plane: DataPlane, ring: KeyRing, workspace: Workspace) -> None:
        self._page = page
        self._plane = plane
        self._ring = ring
        self._workspace = workspace

    async def work(self) -> None:
        """Write for ever."""
        last: tuple[object, ...] = ()
        body = b""
        while True:
            known, keys, folders = self._plane.known(), self._ring.keys, self._workspace.store_folders
            if known is not None:
                if (known.wanted, known.served, keys, folders) != last:
                    last = (known.wanted, known.served, keys, folders)
                    body = await asyncio.to_thread(_encoder.encode, _written(known, keys, folders))
                await asyncio.to_thread(self._write, stamped(known.at_s, body))
            await asyncio.sleep(WRITE_S)

    def _write(self, content: bytes) -> None:
        try:
            self._page.write(content)
        except ValueError as error:  # too many fleets; only who starts without the registry would miss it
            _log.debug("what is known of the registry is not handed over: %s", error)


def _written(known: Known, keys: Sequence[ApiKeyRecord], folders: Mapping[str, Path]) -> tuple[object, ...]:
    paths = {category: str(folder) for category, folder in folders.items()}
    return known.wanted, tuple(known.served.values()), tuple(keys), paths


def _read(one: _Wanted) -> Wanted:
    spec: Mapping[str, Json] = one.spec  # type: ignore[assignment]
    sources: Mapping[str, Mapping[str, Json]] = one.sources  # type: ignore[assignment]
    return Wanted(
        fleet=one.fleet,
        snapshot=one.snapshot,
        loaded=one.loaded,
        spec=spec,
        sources=sources,
        reason=one.reason,
        alias=one.alias,
    )
