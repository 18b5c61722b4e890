"""Whether a serving spec fits the fleet, its sources, and what its models were trained with."""

from collections.abc import Mapping, Sequence

from shoal.errors import InvalidSpec
from shoal.requests.checks import Checks
from shoal.requests.lookup_columns import feature_kinds, key_columns, wanted
from shoal.requests.readers import FindSource, require_places
from shoal.requests.rules import Rules
from shoal.requests.sources import RedisSource
from shoal.requests.spec import PROCESS, FleetSchema, LookupSpec, ServingSpec

_TRAINED = ("source", "keys", "features", "key_types", "defaults", "as_of", "max_age_s")
"""What a lookup's description says of the features themselves."""

_EQUAL = ("defaults", "max_age_s")
"""What makes the same source give other features, so that it may not differ between training and serving."""


def require_fit(spec: ServingSpec, schema: FleetSchema, find: FindSource) -> None:
    """Refuse a spec that could not be served; nothing is asked of its sources.

    Raises
    ------
    InvalidSpec
        Names the field and how to mend it.
    NotFound
        There is no source of that name.
    """
    outputs = Rules(spec, schema).outputs
    Checks(spec.checks, schema, outputs)
    if spec.log is not None and spec.log.columns is not None:
        looked_up_by = () if spec.lookup is None else spec.lookup.keys
        _require_columns(spec.log.columns, {*schema.inputs, *outputs, *looked_up_by})
    if spec.lookup is not None:
        columns = key_columns(spec.lookup, schema)
        feature_kinds(spec.lookup, schema)
        require_places(find(spec.lookup.source), wanted(spec.lookup, columns))
    store = PROCESS if spec.cache is None else spec.cache.store
    if store != PROCESS and not isinstance(find(store), RedisSource):
        raise InvalidSpec(f"field 'cache.store': {store!r} is not of kind redis")


def _require_columns(columns: Sequence[str], known: set[str]) -> None:
    unknown = sorted(set(columns) - known)
    if unknown:
        raise InvalidSpec(f"field 'log.columns': there is no input or output {unknown[0]!r}; there are {sorted(known)}")


def as_trained(lookup: object, trained: Mapping[str, object] | None) -> object:
    """A lookup's description, filled in with what training's says of the features where it names no source.

    Parameters
    ----------
    lookup : mapping
        As the user wrote it; anything else is given back.
    trained : mapping or None
        The description that the models were trained with.

    Raises
    ------
    InvalidSpec
        It names no source, and the models were not trained with a lookup.
    """
    if not isinstance(lookup, Mapping) or "source" in lookup:
        return lookup
    if trained is None:
        raise InvalidSpec(
            "field 'lookup.source' is missing: these models were not trained with a lookup; name a source"
        )
    return {name: trained[name] for name in _TRAINED if name in trained} | dict(lookup)


def require_same(lookup: LookupSpec | None, trained: Mapping[str, object] | None) -> None:
    """Refuse a lookup that would give models other features than they were trained with.

    Another source is fine: features are often trained from a database and served from a faster copy.

    Raises
    ------
    InvalidSpec
        Names the field that differs.
    """
    if lookup is None or trained is None:
        return
    for name in _EQUAL:
        now, then = getattr(lookup, name) or None, trained.get(name) or None
        if isinstance(then, Mapping):
            then = {feature: value for feature, value in then.items() if feature in lookup.features} or None
        if now != then:
            raise InvalidSpec(
                f"field 'lookup.{name}' is {now!r}, but the models were trained with {then!r}; serve them alike, or "
                "train them anew"
            )
