"""Who asks."""

from dataclasses import dataclass
from typing import Final

from shoal.errors import Forbidden
from shoal.security.permissions import Permission, Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Somebody we know.

    Attributes
    ----------
    name : str
        Name of the API key; what the audit and the logs show.
    role : Role
        What the key is for.
    key_id : str or None
        The key's public id; None where no key was asked for.
    """

    name: str
    role: Role
    key_id: str | None = None

    def require(self, permission: Permission) -> None:
        """Raise unless the principal may do this.

        Raises
        ------
        Forbidden
            It may not; the message names the permission and the role.
        """
        if permission not in self.role.permissions:
            raise Forbidden(
                f"{self.name!r} has the role {self.role}, which does not allow to {permission}; "
                "use a key whose role does, see `shoal keys create --help`"
            )


LOOPBACK: Final = Principal(name="loopback", role=Role.ADMIN)
"""Everybody, on a server without API keys; such a server listens on a loopback address only."""
