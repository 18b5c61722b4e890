"""The workspace: settings in, wired services out. What ``shoal.open()`` returns.

::

    opening.py       from the environment's settings to an open workspace
    workspace.py     Workspace, the public face, and what it is wired of
    registration.py  a fleet becomes the next snapshot of a name
    storehouse.py    where snapshots lie; opening them, and collecting those that nothing refers to
    served.py        what servers are to do with a fleet
    connections.py   named sources and sinks
    keys.py          API keys
    jobs.py          training and scoring, wired to what they need
    submission.py    predictions that nobody waits for, asked by the person at the machine
"""

from shoal.workspace.opening import open_workspace
from shoal.workspace.workspace import Workspace

__all__ = ["Workspace", "open_workspace"]
