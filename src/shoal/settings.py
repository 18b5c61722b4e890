"""What the environment decides: where Shoal keeps its things, and in whose name it acts."""

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCUMENTED: Mapping[str, str] = {
    "SHOAL_HOME": "Folder that holds everything Shoal writes. Default: ./.shoal",
    "SHOAL_DATABASE_URL": "SQLAlchemy URL of the registry and the ledger. Default: SQLite, shoal.db in SHOAL_HOME",
    "SHOAL_CPU": "Kind of CPU to compile the kernels for, e.g. x86-64-v3. Default: this machine's own",
    "SHOAL_API_KEY": "API key that `shoal fleets stats` shows to servers. Default: none",
    "SHOAL_ACTOR": "Who the audit says made a change. Default: the user of the operating system",
}
"""Every environment variable that Shoal reads, and what it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The settings of one workspace.

    Attributes
    ----------
    home : Path
        Absolute path of the folder that holds everything Shoal writes (``SHOAL_HOME``).
    database_url : str
        Where the registry and the ledger live, as an SQLAlchemy URL (``SHOAL_DATABASE_URL``).
    actor : str
        Who the audit says made a change (``SHOAL_ACTOR``).
    """

    home: Path
    database_url: str
    actor: str

    @property
    def database_file(self) -> Path | None:
        """Where the registry and the ledger live, where that is a file."""
        scheme, is_file, path = self.database_url.partition(":///")
        return Path(path) if is_file and scheme.startswith("sqlite") else None

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, home: Path | str | None = None
    ) -> "Settings":
        """Read the settings; a setting that is empty counts as not set.

        Parameters
        ----------
        environment : mapping, optional
            Where to read from; by default the environment of this process.
        home : path, optional
            Takes the place of ``SHOAL_HOME``.

        Returns
        -------
        Settings
            With ``home`` made absolute, so that changing folders later does not move it.
        """
        values = os.environ if environment is None else environment
        folder = Path(home or values.get("SHOAL_HOME") or ".shoal").expanduser().absolute()
        return cls(
            home=folder,
            database_url=values.get("SHOAL_DATABASE_URL") or f"sqlite:///{folder / 'shoal.db'}",
            actor=values.get("SHOAL_ACTOR") or _user(),
        )


def _user() -> str:
    """The operating system's user; containers may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
