"""From the environment's settings to an open workspace: ``shoal.open()``."""

import dataclasses
from pathlib import Path

from shoal.settings import Settings
from shoal.workspace.workspace import Workspace


def open_workspace(home: str | Path | None = None, *, actor: str | None = None) -> Workspace:
    """Open the workspace in a folder, making it if it is not there.

    Parameters
    ----------
    home : path, optional
        The folder that holds everything Shoal writes; ``SHOAL_HOME``, else ``./.shoal``, unless told.
    actor : str, optional
        In whose name changes are made; ``SHOAL_ACTOR``, else the user of the operating system, unless told.

    Raises
    ------
    StorageError
        The folder cannot be written or the database not reached.
    """
    settings = Settings.from_environment(home=home)
    return Workspace(dataclasses.replace(settings, actor=actor) if actor else settings)
