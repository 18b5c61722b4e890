"""Recognising scikit-learn's classes by name, so that nothing here imports scikit-learn."""

from functools import lru_cache


@lru_cache(maxsize=4096)
def _public(module: str, qualname: str) -> str:
    parts = module.split(".")
    private = next((i for i, part in enumerate(parts) if part.startswith("_") and i > 0), len(parts))
    return ".".join([*parts[:private], qualname])


def class_name(thing: object) -> str:
    """The public name of an object's class, e.g. ``sklearn.linear_model.Ridge``.

    The module's private tail (``sklearn.linear_model._ridge``) is left out: it moves between releases. A subclass has a
    name of its own, hence is never taken for its parent.
    """
    cls = type(thing)
    return _public(cls.__module__, cls.__qualname__)
