"""Points of time: reading them as people and programs write them, and having them in UTC."""

import datetime as dt

from shoal.errors import InvalidInput


def iso_time(text: str) -> dt.datetime | None:
    """Time of an ISO 8601 date or time, with the zone it was written with, if any; None where the text is none."""
    try:
        moment = dt.datetime.fromisoformat(text.upper())  # z and t are as good as Z and T
        if moment.tzinfo is not None:
            moment.astimezone(dt.UTC)  # within a day of the first year or the last there may be no such time in UTC
    except (ValueError, OverflowError):
        return None
    return moment


def utc_time(text: str, *, what: str) -> dt.datetime:
    """Time of an ISO 8601 date or time such as ``2026-01-31`` or ``2026-01-31T12:00:00+01:00``, in UTC.

    Parameters
    ----------
    text : str
        Without a zone it is one of UTC.
    what : str
        What it is, for the message.

    Raises
    ------
    InvalidInput
        It is not one.
    """
    moment = iso_time(text)
    if moment is None:
        raise InvalidInput(f"{what} {text[:60]!r} is no time; write e.g. 2026-01-31 or 2026-01-31T12:00:00Z")
    return in_utc(moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC))


def in_utc(moment: dt.datetime) -> dt.datetime:
    """An aware time in UTC.

    Raises
    ------
    InvalidInput
        It has no time zone, or it is outside of the years 1 to 9999 in UTC.
    """
    if moment.tzinfo is None:
        raise InvalidInput(f"{moment} has no time zone; give it one, as datetime.now(UTC) has")
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise InvalidInput(f"{moment} is outside of the years 1 to 9999 in UTC; give a time within them") from error
