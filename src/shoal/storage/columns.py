"""Column types that hold the same values on every database: aware times and JSON."""

import datetime as dt
from collections.abc import Callable

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from shoal.errors import InvalidInput
from shoal.times import in_utc
from shoal.types import Json

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder: msgspec.json.Decoder[Json] = msgspec.json.Decoder()


UNKEEPABLE = "the database cannot keep this value; leave out odd characters and huge numbers"
"""What is said of a value that one of the databases refuses."""


def keepable(text: str) -> str:
    """A text of unknown origin, such as an error's, without what one of the databases refuses."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def json_text(value: Json) -> str:
    """Write a JSON value as its one text, keys sorted; NaN and infinity become null."""
    return _encoder.encode(value).decode()


def json_value(text: str) -> Json:
    """Read the value of a JSON text."""
    return _decoder.decode(text)


class UtcTime(sa.types.TypeDecorator[dt.datetime]):
    """Aware times in UTC. SQLite keeps them as text of one width, so that they compare as they should."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: D102
        return None if value is None else in_utc(value)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:  # noqa: D102
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class WholeText(sa.Text):
    """Text without NUL, which PostgreSQL has none of and SQLite's own functions take for its end."""

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], str | None]:  # noqa: D102
        return _whole


def _whole(value: str | None) -> str | None:
    if isinstance(value, str) and "\0" in value:  # what is no text is the driver's to refuse
        raise InvalidInput(UNKEEPABLE, detail="a text has a NUL character")
    return value


class JsonText(sa.types.TypeDecorator[Json]):
    """JSON as text with sorted keys. SQL NULL and JSON null are both None."""

    impl = sa.Text()
    cache_ok = True

    def process_bind_param(self, value: Json, dialect: Dialect) -> str | None:  # noqa: D102
        return None if value is None else json_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Json:  # noqa: D102
        return None if value is None else json_value(value)
