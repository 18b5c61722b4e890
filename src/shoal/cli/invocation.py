"""What the options before the verb say, handed to every verb by ``click.pass_obj``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.cli.output import console
from shoal.settings import Settings

if TYPE_CHECKING:
    from shoal.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """The options that all verbs share.

    Attributes
    ----------
    home : Path or None
        ``--home``; None leaves it to the environment.
    debug : bool
        ``--debug``.
    """

    home: Path | None
    debug: bool

    def workspace(self) -> "Workspace":
        """Open the workspace; ``with invocation.workspace() as workspace:`` closes it again.

        One that was not there is made, and that is said: the folder may have been misspelt.

        Raises
        ------
        StorageError
            The home cannot be written or the database not reached.
        """
        # Importing everything that the workspace wires takes a second; help and wrong usage need not wait for it.
        from shoal.workspace import open_workspace

        file = Settings.from_environment(home=self.home).database_file
        is_new = file is not None and not file.exists()
        workspace = open_workspace(self.home)
        if is_new:
            console(err=True).print(f"made a new workspace in {workspace.settings.home}")
        return workspace
