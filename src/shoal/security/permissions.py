"""What one may be allowed to do, and the roles that bundle it."""

import enum
from collections.abc import Mapping


class Permission(enum.StrEnum):
    """What a caller may do."""

    PREDICT = "predict"
    """Ask models, and look at one's own asynchronous requests."""
    READ = "read"
    """Look at fleets, runs, services, metrics and the descriptions of the API."""
    OPERATE = "operate"
    """Promote, roll back, load, unload, and change how a fleet is served."""
    ADMIN = "admin"
    """Make and revoke API keys, and see the audit."""


class Role(enum.StrEnum):
    """What an API key is for."""

    PREDICTOR = "predictor"
    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def permissions(self) -> frozenset[Permission]:
        """All that the role allows."""
        return PERMISSIONS[self]


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.PREDICTOR: frozenset({Permission.PREDICT}),
    Role.READER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset({Permission.PREDICT, Permission.READ, Permission.OPERATE}),
    Role.ADMIN: frozenset(Permission),
}
"""What each role allows. Metrics collectors read and never predict; applications predict and see nothing else."""
