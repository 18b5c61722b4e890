"""The management API under ``/api/v1``: the words of the command line over HTTP.

FastAPI checks and describes what comes in; the workspace does it, in a thread, for it blocks.
"""

from shoal.server.management.door import Management, build

__all__ = ["Management", "build"]
