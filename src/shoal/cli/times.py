"""Times as people write them on the command line."""

import datetime as dt
import re

import click

from shoal.errors import InvalidInput
from shoal.times import utc_time

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[float]):
    """A length of time such as ``90d``, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time; write e.g. 30m, 12h or 90d", param, ctx)
        return float(found[1]) * _UNITS_S[found[2]]


class Moment(click.ParamType[dt.datetime]):
    """A point of time such as ``2026-01-31`` or ``2026-01-31T12:00:00+01:00``; UTC where no zone is given."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        """Read it."""
        if isinstance(value, dt.datetime):
            return value
        try:
            return utc_time(str(value), what="the time")
        except InvalidInput as error:
            self.fail(str(error), param, ctx)
