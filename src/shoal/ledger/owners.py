"""Who claims work: a name for a process by which others on the same machine can tell that it is gone.

After a power cut or a ``kill -9`` the shards of the dead process need not wait for their leases: whoever resumes the
run looks whether their owners are alive. An owner elsewhere is never taken for gone; its lease decides.
"""

import hashlib
import os
import socket
from pathlib import Path

_PROCESSES = Path("/proc")


def this_worker(part: str = "") -> str:
    """The name of this process as an owner of claims, e.g. ``node7-1f0c9a2e:4711:88123#3``.

    Parameters
    ----------
    part : str
        Tells several workers of one process from each other.

    Returns
    -------
    str
        Machine and its start, process number, the process's start, and ``part``. Ask again after a fork.
    """
    pid = os.getpid()
    return f"{_place()}:{pid}:{_start_of(pid)}" + (f"#{part}" if part else "")


def is_gone(owner: str) -> bool:
    """Whether the owner was a process of this machine that does not run any more; False when that is not known."""
    place, _, rest = owner.partition("#")[0].partition(":")
    pid, _, start = rest.partition(":")
    if place != _place() or not pid.isdigit():
        return False
    return not _runs(int(pid)) or _start_of(int(pid)) != start


def _place() -> str:
    """Name the machine, its start, and the namespace in which process numbers mean what they mean here."""
    marks = [_text(_PROCESSES / "sys/kernel/random/boot_id"), _link(_PROCESSES / "self/ns/pid")]
    return f"{socket.gethostname()}-{hashlib.sha256(' '.join(marks).encode()).hexdigest()[:8]}"


def _start_of(pid: int) -> str:
    """When the process started, in the kernel's ticks: process numbers are used again. Empty where nobody says."""
    # The second field, the program's name, may contain blanks and brackets; the last bracket ends it.
    fields = _text(_PROCESSES / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _runs(pid: int) -> bool:
    fields = _text(_PROCESSES / str(pid) / "stat").rpartition(")")[2].split()
    if fields:
        return fields[0] not in {"Z", "X"}
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
