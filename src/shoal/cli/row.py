"""One row as people type it: ``NAME=VALUE ...``, or a JSON object."""

import json

from shoal.errors import InvalidInput


def typed_row(values: tuple[str, ...], row: str | None) -> dict[str, object]:
    """The columns that were given and their values.

    Parameters
    ----------
    values : tuple of str
        ``NAME=VALUE`` each.
    row : str or None
        Instead, a JSON object.

    Raises
    ------
    InvalidInput
        It is neither.
    """
    if row is None:
        return dict(_pair(value) for value in values)
    try:
        given = json.loads(row)
    except ValueError as error:
        raise InvalidInput(f"--row is no JSON ({error}); quote it for your shell") from None
    if not isinstance(given, dict):
        raise InvalidInput("--row must be a JSON object of column names and values")
    return given


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise InvalidInput(f"{text!r} is not NAME=VALUE")
    return name, value
