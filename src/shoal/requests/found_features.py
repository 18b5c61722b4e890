"""What a source has for a key, as the features of a row: read, replaced by defaults, or a reason why not."""

import time
from collections.abc import Sequence
from typing import TypeAlias

from shoal.errors import ConnectionFailed, InvalidInput, StorageError
from shoal.requests.lookup_columns import Feature, feature_kinds, read_as
from shoal.requests.spec import FleetSchema, LookupSpec
from shoal.storage.lookup_reader import Values, moment

Brought: TypeAlias = tuple[Sequence[Feature], str | None]
"""A row's features in the order of the spec, and why it is not to be scored."""


class FoundFeatures:
    """How a lookup takes what its source says.

    Parameters
    ----------
    spec : LookupSpec
        The lookup.
    schema : FleetSchema
        The fleet's columns.

    Attributes
    ----------
    kinds : list of FeatureKind
        Of the features, in the order of the spec.
    defaults : list of float, str or None
        Likewise what stands in for one that is missing.

    Raises
    ------
    InvalidSpec
        The fleet has no such feature, or a default is not of its kind.
    """

    def __init__(self, spec: LookupSpec, schema: FleetSchema) -> None:
        self.kinds = feature_kinds(spec, schema)
        self.defaults: list[Feature] = [spec.defaults.get(name) for name in spec.features]
        self._spec = spec

    def features(self, values: Values | None) -> Brought:
        """The features of a key; None: the source does not have it."""
        if values is None:
            return self.defaults, self.missing
        try:
            return [
                default if (read := read_as(value, kind)) is None else read
                for value, kind, default in zip(values, self.kinds, self.defaults, strict=False)
            ], None
        except InvalidInput as error:
            return self.defaults, self.unreadable(error)

    @property
    def missing(self) -> str | None:
        """Why a row whose key the source does not have is not to be scored."""
        return f"lookup in {self._spec.source!r} knows no such key" if self._spec.on_missing == "invalid" else None

    def unreadable(self, error: InvalidInput) -> str:
        """Why a row for which the source has something that is no feature is not to be scored."""
        return f"lookup in {self._spec.source!r}: {error}"

    def without(self, error: StorageError) -> Brought:
        """The features where the source failed and the spec says to go on."""
        return self.defaults, self.told(error) if self._spec.on_failure == "invalid" else None

    def instead(self, error: StorageError) -> str:
        """What there is to say of a row that is scored though the source failed."""
        return f"{self.told(error)}; defaults stand in" if self._spec.defaults else self.told(error)

    def told(self, error: StorageError) -> str:
        """What reasons say of a failure: neither files nor addresses nor a driver's words."""
        return error.message if isinstance(error, ConnectionFailed) else self.failure(error).message

    def failure(self, error: Exception) -> ConnectionFailed:
        """What a reader raised, as a failure of the lookup."""
        what = f"lookup in {self._spec.source!r} failed"
        if isinstance(error, ConnectionFailed):
            return ConnectionFailed(f"{what}: {error.message}", detail=error.detail)
        return ConnectionFailed(what, detail=str(error) or type(error).__name__)

    def late(self, limit_s: float) -> ConnectionFailed:
        """What became of rows that waited for the source for so many seconds, which is too long."""
        limit = f"{limit_s * 1000:.0f} ms" if limit_s < 1 else f"{limit_s:g} s"
        return ConnectionFailed(f"lookup in {self._spec.source!r} took longer than {limit}")

    def current(self, values: Values | None) -> Values | None:
        """What a source has for a key, unless it is from the future or too old."""
        return None if values is None or self._is_too_old(values) else values

    def _is_too_old(self, values: Values) -> bool:
        if self._spec.as_of is None:
            return False
        try:
            since = moment(values[-1])
        except InvalidInput:
            return True
        if since is None:
            return True
        age_s = time.time() - since.timestamp()
        return age_s < 0 or (self._spec.max_age_s is not None and age_s > self._spec.max_age_s)
