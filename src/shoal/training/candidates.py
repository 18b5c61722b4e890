"""What is tried in a segment: the candidates of a spec and their grids, as unfitted scikit-learn estimators."""

import importlib
import inspect
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, cast

from shoal.errors import InvalidSpec
from shoal.training.spec import Candidate, Step
from shoal.types import Feature, FeatureKind


class Estimator(Protocol):
    """What a candidate's last step is."""

    def fit(self, X: object, y: object = None) -> Self:
        """Learn from rows."""
        ...

    def predict(self, X: object) -> object:
        """Answer rows."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """Parameters by name."""
        ...

    def set_params(self, **parameters: object) -> Self:
        """Change parameters."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A candidate with one combination of its grid.

    Attributes
    ----------
    candidate : Candidate
        Its description.
    parameters : mapping of str to object
        The combination.
    """

    candidate: Candidate
    parameters: Mapping[str, object]

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.candidate.name

    @property
    def parameters_text(self) -> str:
        """The combination as JSON; empty where there is only one."""
        return json.dumps(dict(self.parameters)) if self.parameters else ""

    def __str__(self) -> str:
        return f"{self.name} {self.parameters_text}".strip()


def choices(candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
    """Every candidate with every combination of its grid, in the spec's order."""
    return tuple(
        Choice(candidate=candidate, parameters=dict(zip(candidate.grid, values, strict=True)))
        for candidate in candidates
        for values in itertools.product(*candidate.grid.values())
    )


def build(choice: Choice, features: Sequence[Feature]) -> Estimator:
    """Make the unfitted estimator of a choice.

    Raises
    ------
    InvalidSpec
        A step cannot be imported or made, or has no such parameter; names the candidate.
    """
    where = f"candidate {choice.name!r}"
    estimator = _pipeline(choice.candidate.steps, features, where)
    known = estimator.get_params()
    for name in choice.parameters:
        if name not in known:
            near = ", ".join(sorted(n for n in known if n.rpartition("__")[2] == name.rpartition("__")[2]))
            advice = f"did you mean {near}?" if near else f"it has {', '.join(sorted(known))}"
            raise InvalidSpec(f"{where}: its grid names {name!r}, which is no parameter; {advice}")
    return estimator.set_params(**{name: _value(value) for name, value in choice.parameters.items()})


def random_parameters(estimator: Estimator) -> tuple[str, ...]:
    """The parameters that must be set for a fit to be repeatable."""
    return tuple(
        name
        for name, value in sorted(estimator.get_params().items())
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    )


def _pipeline(steps: Sequence[Step], features: Sequence[Feature], where: str) -> Estimator:
    made = [_step(step, features, where) for step in steps]
    if len(made) == 1:
        return made[0]
    pipeline = importlib.import_module("sklearn.pipeline").make_pipeline(*made)
    return cast("Estimator", pipeline)


def _step(step: Step, features: Sequence[Feature], where: str) -> Estimator:
    if isinstance(step, str):
        return _make(step, {}, where)
    if len(step) != 1:
        raise InvalidSpec(f"{where}: a step is an import path or one path with its parameters, not {dict(step)}")
    path, parameters = next(iter(step.items()))
    if path == "columns":
        return _columns(parameters, features, where)
    if not isinstance(parameters, Mapping):
        if parameters is not None:
            raise InvalidSpec(f"{where}: the parameters of {path} must be fields, such as {{alpha: 1}}")
        parameters = {}
    return _make(path, parameters, where)


def _make(path: str, parameters: Mapping[str, object], where: str) -> Estimator:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        thing = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSpec(
            f"{where}: {path!r} cannot be imported ({error}); write e.g. sklearn.linear_model.Ridge"
        ) from error
    if not callable(thing):
        raise InvalidSpec(f"{where}: {path} is neither a class nor a function")
    try:
        made = thing(**{name: _value(value) for name, value in parameters.items()})
    except TypeError as error:
        raise InvalidSpec(f"{where}: {path} does not take these parameters: {error}{_signature(thing)}") from error
    if not callable(getattr(made, "get_params", None)):
        raise InvalidSpec(f"{where}: {path} makes no scikit-learn estimator")
    return cast("Estimator", made)


def _signature(thing: object) -> str:
    """What it takes instead."""
    try:
        names = [name for name in inspect.signature(cast("type", thing)).parameters if name != "self"]
    except (TypeError, ValueError):
        return ""
    return f"; it takes {', '.join(names)}"


def _value(value: object) -> object:
    """YAML has no tuples; scikit-learn checks for them where it wants them (``feature_range``)."""
    if isinstance(value, list | tuple) and value and all(isinstance(item, int | float) for item in value):
        return tuple(value)
    return value


def _columns(parts: object, features: Sequence[Feature], where: str) -> Estimator:
    """A ColumnTransformer from ``[{features: ..., steps: [...]}, ...]``; it addresses columns by position."""
    if not isinstance(parts, list | tuple) or not parts:
        raise InvalidSpec(f"{where}: 'columns' is a list such as [{{features: texts, steps: [...]}}]")
    transformers = [(_part_name(number, part), *_part(part, features, where)) for number, part in enumerate(parts, 1)]
    transformer = importlib.import_module("sklearn.compose").ColumnTransformer(transformers)
    return cast("Estimator", transformer)


def _part_name(number: int, part: object) -> str:
    """What grids call it: ``columntransformer__numbers__...``."""
    chosen = part.get("features") if isinstance(part, Mapping) else None
    return str(chosen) if chosen in ("numbers", "texts") else f"part{number}"


def _part(part: object, features: Sequence[Feature], where: str) -> tuple[Estimator | str, list[int]]:
    if not isinstance(part, Mapping) or set(part) != {"features", "steps"}:
        raise InvalidSpec(f"{where}: a part of 'columns' has 'features' and 'steps', not {part!r}")
    steps = part["steps"]
    if steps == "passthrough":
        return "passthrough", _positions(part["features"], features, where)
    if isinstance(steps, str | Mapping):
        steps = [steps]
    if not isinstance(steps, list | tuple) or not steps:
        raise InvalidSpec(f"{where}: the 'steps' of a part of 'columns' are a list, or the word passthrough")
    made = _pipeline(cast("Sequence[Step]", steps), features, where)
    return made, _positions(part["features"], features, where)


def _positions(chosen: object, features: Sequence[Feature], where: str) -> list[int]:
    kinds = {"numbers": FeatureKind.NUMERIC, "texts": FeatureKind.CATEGORY}
    if isinstance(chosen, str) and chosen in kinds:
        return [i for i, feature in enumerate(features) if feature.kind is kinds[chosen]]
    names = [chosen] if isinstance(chosen, str) else list(cast("Iterator[object]", chosen or ()))
    known = {feature.name: position for position, feature in enumerate(features)}
    for name in names:
        if name not in known:
            raise InvalidSpec(f"{where}: 'columns' names {name!r}, which is not among the features {list(known)}")
    return [known[str(name)] for name in names]
