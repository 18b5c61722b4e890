"""How each kind of estimator is recognised, packed as columns and scored by which kernel.

A family is a module of this package with a ``FAMILY`` (or several, ``FAMILIES``); nothing has to be registered.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import MappingProxyType, ModuleType

from shoal.errors import InvalidArtifact, UnsupportedEstimator
from shoal.families.contract import Family, ModelBlock, PackedModel
from shoal.families.inputs import Inputs
from shoal.families.names import class_name
from shoal.families.validation import check_block

__all__ = ["families", "family", "pack", "validate"]


@cache
def families() -> Mapping[str, Family]:
    """All families by name, as found among the modules of this package."""
    found: dict[str, Family] = {}
    for module in _modules():
        for one in _declared(module):
            if found.setdefault(one.name, one) is not one:
                raise RuntimeError(f"two families are called {one.name!r}; rename one of them")
    return MappingProxyType(dict(sorted(found.items())))


def _modules() -> Iterator[ModuleType]:
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        yield importlib.import_module(f"{__name__}.{info.name}")


def _declared(module: ModuleType) -> list[Family]:
    alone = getattr(module, "FAMILY", None)
    return [*([alone] if alone is not None else []), *getattr(module, "FAMILIES", ())]


def family(name: str) -> Family:
    """The family of this name.

    Raises
    ------
    InvalidArtifact
        No such family: a file names one that this version of Shoal does not have.
    """
    try:
        return families()[name]
    except KeyError:
        known = ", ".join(families())
        raise InvalidArtifact(f"no family is called {name!r}; this version of Shoal has {known}") from None


def pack(estimator: object, features: Sequence[str]) -> PackedModel:
    """Lay out one fitted estimator, or a pipeline that ends in one, as plain numbers.

    Parameters
    ----------
    estimator : object
        A fitted scikit-learn estimator.
    features : sequence of str
        The raw input columns. An estimator that was fitted with feature names must have been fitted on exactly these,
        in any order; one without names takes them in this order.

    Returns
    -------
    PackedModel
        ``layout.features`` has those of the features that the model uses.

    Raises
    ------
    UnsupportedEstimator
        Names the step and parameter that stopped it.
    """
    inputs = Inputs(estimator, features)
    final = inputs.estimator
    for one in families().values():
        if one.recognises(final):
            return one.pack(final, inputs)
    raise UnsupportedEstimator(inputs.part, f"no family can pack {class_name(final)}")


def validate(block: ModelBlock) -> None:
    """Check everything in a block that a kernel follows: the program, the class numbers, the family's parameters.

    Raises
    ------
    InvalidArtifact
        Says what is wrong with which model.
    """
    check_block(block)
    family(block.layout.family).validate(block)
