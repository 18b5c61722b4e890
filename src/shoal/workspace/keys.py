"""API keys: made, listed, replaced and revoked."""

import datetime as dt

from shoal.registry import Registry
from shoal.security.api_keys import ApiKeyRecord, IssuedKey, new_key, require_life
from shoal.security.permissions import Role, role_of


class ApiKeys:
    """The API keys of a workspace; only their digests are kept.

    Parameters
    ----------
    registry : Registry
        Where they are kept.
    actor : str
        In whose name, unless told.
    """

    def __init__(self, registry: Registry, actor: str) -> None:
        self._registry = registry
        self._actor = actor

    def create(self, name: str, role: Role | str, expires_s: float | None, actor: str | None) -> IssuedKey:
        """Make a key; its text is in the answer, this once.

        Parameters
        ----------
        name : str
            Whose it is.
        role : Role or str
            What it is for.
        expires_s : float or None
            How long it is taken, in seconds; for ever unless told.
        actor : str or None
            In whose name; the workspace's own unless told.

        Raises
        ------
        InvalidInput
            The name is empty or too long, there is no such role, or the time is none that a key can be taken.
        """
        key = new_key()
        record = self._registry.create_key(
            id=key.id,
            name=name,
            role=role_of(role),
            hash=key.hash,
            expires_at=_after(expires_s),
            actor=actor or self._actor,
        )
        return IssuedKey(record=record, text=key.text)

    def revoke(self, key_id: str) -> ApiKeyRecord:
        """Take a key no more; harmless when it was revoked before.

        Raises
        ------
        NotFound
            There is no such key.
        """
        return self._registry.revoke_key(key_id, actor=self._actor)

    def rotate(self, key_id: str, overlap_s: float, expires_s: float | None, actor: str | None) -> IssuedKey:
        """Make a key of the same name and role as another, which is taken for ``overlap_s`` seconds yet.

        Raises
        ------
        NotFound
            There is no such key.
        InvalidInput
            One of the times is none that a key can be taken.
        Conflict
            It was revoked or has expired.
        """
        key = new_key()
        _, record = self._registry.rotate_key(
            key_id, new_id=key.id, new_hash=key.hash, expires_at=_after(expires_s), overlap_s=overlap_s,
            actor=actor or self._actor,
        )  # fmt: skip
        return IssuedKey(record=record, text=key.text)


def _after(seconds: float | None) -> dt.datetime | None:
    require_life(seconds)
    return None if seconds is None else dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
