"""What one may be allowed to do, and the roles that bundle it."""

import enum
from collections.abc import Mapping

from shoal.errors import InvalidInput


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


def role_of(name: str) -> Role:
    """The role of a name, or the role itself.

    Raises
    ------
    InvalidInput
        There is none of that name; the message lists those that there are.
    """
    if name in list(Role):
        return Role(name)
    raise InvalidInput(f"there is no role {name!r}; use one of {', '.join(Role)}")


PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.PREDICTOR: frozenset({Permission.PREDICT}),
    Role.READER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset({Permission.PREDICT, Permission.READ, Permission.OPERATE}),
    Role.ADMIN: frozenset(Permission),
}
"""What each role allows. Metrics collectors read and never predict; applications predict and see nothing else."""
