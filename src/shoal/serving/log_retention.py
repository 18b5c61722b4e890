"""Old days of the prediction log: removed in the background, by whichever process comes to it.

A day goes in two steps. First it is marked, and :func:`logged_files` names its files no more; after a while, in which
those who read them already can finish, its files and its folder are removed. Nothing else is ever touched: folders that
are not called ``date=YYYY-MM-DD``, links, and files that are not the log's stay, and so does a folder that has any.
"""

import contextlib
import datetime as dt
import errno
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MARK: Final = ".ending"
"""The file in a day's folder that says that it is going to be removed."""

GRACE_S: Final = 600.0
"""How long those who read a day's files when it was marked have for that, in seconds."""

LOOK_S: Final = 300.0
"""How often to look, in seconds."""

MOST_DAYS: Final = 50
"""Days of a fleet that are removed in one look; the others wait for the next."""

STALE_S: Final = 3600.0
"""Unfinished files may be somebody's who writes until they are so old, in seconds."""

_DAY: Final = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_DAY_S: Final = 86_400.0
_EPOCH: Final = dt.date(1970, 1, 1)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_GONE: Final = (FileNotFoundError, NotADirectoryError)

_log = logging.getLogger("shoal.serving")


def logged_files(folder: Path, fleet: str) -> list[Path]:
    """The files of a fleet's log by day, without those of days that are being removed.

    Parameters
    ----------
    folder : Path
        The log's.
    fleet : str
        The fleet's name.
    """
    files: list[Path] = []
    for day in sorted((folder / f"fleet={fleet}").glob("date=*")):
        with contextlib.suppress(*_GONE):  # another process removes it just now
            there = sorted(day.iterdir())
            if day / MARK not in there:
                files += [file for file in there if file.suffix == ".parquet" and file.name[0] != "."]
    return files


class LogRetention:
    """Removes old days of fleets' logs in a thread of its own, which there is once a fleet wants it. Safe for threads.

    Parameters
    ----------
    folder : Path
        The log's.
    grace_s, look_s : float
        See :data:`GRACE_S` and :data:`LOOK_S`.
    """

    def __init__(self, folder: Path, *, grace_s: float = GRACE_S, look_s: float = LOOK_S) -> None:
        self._folder = folder
        self._grace_s = grace_s
        self._look_s = look_s
        self._days: dict[str, float] = {}
        self._changing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def keep(self, fleet: str, days: float | None) -> None:
        """Say how long a fleet's log is kept from now on.

        Parameters
        ----------
        fleet : str
            Its name.
        days : float or None
            So many days, at least one, after the end of each; None: for ever.
        """
        if days is None:
            self._days.pop(fleet, None)
            self._look(fleet, math.inf)  # what was marked stays after all
            return
        with self._changing:
            self._days[fleet] = days
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="shoal-log-retention", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """End; what is being removed is finished by others, or the next time."""
        self._closed = True
        self._wake.set()

    def _work(self) -> None:
        while not self._closed:
            for fleet, days in dict(self._days).items():
                self._look(fleet, days)
                if fleet not in self._days:
                    self._look(fleet, math.inf)
            self._wake.wait(self._look_s)
            self._wake.clear()

    def _look(self, fleet: str, days: float) -> None:
        try:
            removed = remove_old_days(self._folder, fleet, days, now_s=time.time(), grace_s=self._grace_s)
        except OSError as error:
            _log.warning("old days of the prediction log of fleet %s stay for now: %s", fleet, error)
            return
        if removed:
            _log.info(
                "%d days of the prediction log of fleet %s were removed, %s to %s: it is kept for %g days",
                len(removed), fleet, min(removed), max(removed), days,
            )  # fmt: skip


def remove_old_days(folder: Path, fleet: str, days: float, *, now_s: float, grace_s: float) -> list[dt.date]:
    """Mark days that are too old, and remove those that were marked long enough ago.

    Any number of processes may do it at the same time.

    Parameters
    ----------
    folder : Path
        The log's.
    fleet : str
        Whose days.
    days : float
        How many days a day is kept after its end; today is never too old.
    now_s : float
        The time, in seconds since 1970, UTC.
    grace_s : float
        How long a day stays marked, in seconds.

    Returns
    -------
    list of date
        The days that this call removed.

    Raises
    ------
    OSError
        A folder cannot be read or written.
    """
    removed: list[dt.date] = []
    with contextlib.suppress(*_GONE), _opened(folder / f"fleet={fleet}") as parent:
        for name in _names(parent):
            day = _day(name)
            if day is None or len(removed) == MOST_DAYS:
                continue
            is_old = now_s / _DAY_S - ((day - _EPOCH).days + 1) >= max(days, 1.0)
            with contextlib.suppress(*_GONE), _opened(name, parent) as place:
                if _is_over(place, is_old, now_s - grace_s) and _removed(parent, name, place, now_s):
                    removed.append(day)
    return removed


def _names(parent: int) -> list[str]:
    with os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries)


def _day(name: str) -> dt.date | None:
    found = _DAY.fullmatch(name)
    if found is None:
        return None
    try:
        return dt.date.fromisoformat(found[1])
    except ValueError:
        return None


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    """A folder's descriptor, so that what is done in it is done there and nowhere else; raises if it is a link."""
    try:
        descriptor = os.open(path, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(error.errno, "it is a link", str(path)) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_over(place: int, is_old: bool, before_s: float) -> bool:
    """Whether a day was marked before a moment; marks it if it is old, and takes the mark off if it is not."""
    try:
        marked_s = os.stat(MARK, dir_fd=place, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        if is_old:
            os.close(os.open(MARK, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600, dir_fd=place))
        return False
    if not is_old:
        _unlink(MARK, place)
    return is_old and marked_s <= before_s


def _removed(parent: int, name: str, place: int, now_s: float) -> bool:
    """Remove a day's files and then its folder, if nothing else is in it."""
    with os.scandir(place) as entries:
        ours = [entry.name for entry in entries if _is_ours(entry, now_s)]
    for file in ours:
        _unlink(file, place)
    _unlink(MARK, place)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):  # something else is there, or it is gone
            return False
        raise
    return True


def _is_ours(entry: "os.DirEntry[str]", now_s: float) -> bool:
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name[0] != ".":
        return entry.name.endswith(".parquet")
    return entry.name.endswith(".part") and entry.stat(follow_symlinks=False).st_mtime < now_s - STALE_S


def _unlink(name: str, place: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)
