"""API keys: their text, what is kept of them, and whether a text is one of ours.

A key's text is ``shoal_<id>_<secret>``: a public id of 12 characters, which finds the record and may be shown and
logged, and a secret of 256 random bits as 64 hexadecimal digits. Only the SHA-256 digest of the whole text is kept.
A slow password hash would add nothing: there is no dictionary to try against 256 random bits.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from shoal.errors import InvalidInput, Unauthenticated
from shoal.security.permissions import Role

LONGEST_LIFE_S: Final = 3_153_600_000.0
"""For how long a key may be taken that expires, in seconds."""

LONGEST_OVERLAP_S: Final = 31_536_000.0
"""For how long a key may be taken beside the one that has replaced it, in seconds."""

_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"
_ID_LENGTH: Final = 12
_SECRET_BYTES: Final = 32
_TEXT: Final = re.compile(rf"shoal_([{_ALPHABET}]{{{_ID_LENGTH}}})_([0-9a-f]{{{2 * _SECRET_BYTES}}})", re.ASCII)

_ADVICE: Final = "see `shoal keys list`, and `shoal keys create` for a new one"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKeyRecord:
    """What is kept of an API key.

    Attributes
    ----------
    id : str
        The public part of its text.
    name : str
        Whose it is; what the audit and the logs show. Several keys may have one name.
    role : Role
        What it is for.
    hash : str
        SHA-256 digest of its text, hexadecimal.
    created_at : datetime
        When it was made, UTC.
    created_by : str
        Who made it.
    expires_at : datetime or None
        From when on it is not taken any more, UTC; None for never.
    revoked_at : datetime or None
        When it was revoked, UTC; None while it was not.
    """

    id: str
    name: str
    role: Role
    hash: str
    created_at: dt.datetime
    created_by: str
    expires_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None

    def is_active(self, now: dt.datetime) -> bool:
        """Whether the key is taken at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def require_active(self, now: dt.datetime) -> None:
        """Raise unless the key is taken at this time.

        Raises
        ------
        Unauthenticated
            It was revoked or has expired; the message says which.
        """
        if self.revoked_at is not None:
            raise Unauthenticated(f"the API key {self.id} was revoked; {_ADVICE}")
        if not self.is_active(now):
            raise Unauthenticated(f"the API key {self.id} has expired; {_ADVICE}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """An API key as its maker sees it, once.

    Attributes
    ----------
    id : str
        The public part.
    text : str
        What callers send. It is kept nowhere.
    hash : str
        What is kept.
    """

    id: str
    text: str
    hash: str

    def __repr__(self) -> str:
        """Without the secret, which must not get into a log."""
        return f"NewKey(id={self.id!r})"


def new_key() -> NewKey:
    """Make a key from the operating system's random numbers."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    text = f"shoal_{key_id}_{secrets.token_hex(_SECRET_BYTES)}"
    return NewKey(id=key_id, text=text, hash=hash_of(text))


def require_life(expires_s: float | None) -> None:
    """Refuse what is no time for a key to be taken; None is for ever.

    Raises
    ------
    InvalidInput
        It is not above 0 seconds, or longer than 100 years.
    """
    if expires_s is not None and not 0 < expires_s <= LONGEST_LIFE_S:
        raise InvalidInput(
            f"an API key cannot be taken for {expires_s:g} s; give more than 0 s, at most {LONGEST_LIFE_S:.0f} s "
            "(100 years), or nothing for ever"
        )


def require_overlap(overlap_s: float) -> None:
    """Refuse what is no time for a key to be taken beside its successor.

    Raises
    ------
    InvalidInput
        It is negative, or longer than a year.
    """
    if not 0 <= overlap_s <= LONGEST_OVERLAP_S:
        raise InvalidInput(
            f"the old key cannot be taken for {overlap_s:g} s more; give 0 s or more, at most "
            f"{LONGEST_OVERLAP_S:.0f} s (a year)"
        )


def hash_of(text: str) -> str:
    """What is kept of a key's text: 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def id_of(text: str) -> str:
    """The public id in a key's text.

    Raises
    ------
    Unauthenticated
        The text has not the form of a key. The message does not repeat it: it may be somebody's password.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise Unauthenticated(f"this is no API key of Shoal's (shoal_ID_SECRET); {_ADVICE}")
    return found[1]


def matches(text: str, record: ApiKeyRecord) -> bool:
    """Whether the text is the record's key; takes the same time wherever the two differ."""
    return hmac.compare_digest(hash_of(text), record.hash)


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedKey:
    """A key that was just made.

    Attributes
    ----------
    record : ApiKeyRecord
        What is kept.
    text : str
        What its owner sends; told once.
    """

    record: ApiKeyRecord
    text: str

    def __repr__(self) -> str:
        """Without the text, which must not get into a log."""
        return f"IssuedKey(id={self.record.id!r})"
