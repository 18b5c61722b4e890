"""Walking pipelines and column transformers down to the final estimator."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shoal.errors import UnsupportedEstimator
from shoal.families.columns import Column, ProgramWriter
from shoal.families.imputing import write_imputer
from shoal.families.names import class_name
from shoal.families.onehot import write_one_hot
from shoal.families.scaling import write_max_abs, write_min_max, write_robust, write_standard

PIPELINE = "sklearn.pipeline.Pipeline"
COLUMN_TRANSFORMER = "sklearn.compose.ColumnTransformer"
ONE_HOT = "sklearn.preprocessing.OneHotEncoder"
FUNCTION = "sklearn.preprocessing.FunctionTransformer"


class Writer(Protocol):
    """How a transformer that works column by column is packed."""

    def __call__(
        self, writer: ProgramWriter, columns: Sequence[Column], transformer: object, part: str, /, *, sparse: bool
    ) -> list[Column]:
        """Write the steps and return the transformer's output columns."""
        ...


COLUMN_WISE: dict[str, Writer] = {
    "sklearn.impute.SimpleImputer": write_imputer,
    "sklearn.preprocessing.StandardScaler": write_standard,
    "sklearn.preprocessing.MinMaxScaler": write_min_max,
    "sklearn.preprocessing.MaxAbsScaler": write_max_abs,
    "sklearn.preprocessing.RobustScaler": write_robust,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """What runs through a pipeline: the columns, and whether scikit-learn holds them as a sparse matrix."""

    columns: Sequence[Column]
    sparse: bool = False

    @property
    def real(self) -> list[Column]:
        """The columns that the estimator knows of."""
        return [column for column in self.columns if not column.padding]


def final_estimator(writer: ProgramWriter, flow: Flow, estimator: object, part: str) -> tuple[Flow, object, str]:
    """Write all transformers of a (nested) pipeline; what comes back is the flow before its last step, and that."""
    if class_name(estimator) != PIPELINE:
        return flow, estimator, part
    *before, last = _steps(estimator, part)
    for name, step in before:
        flow = transformed(writer, flow, step, f"{part}step {name!r}")
    name, step = last
    if _passes(step):
        raise UnsupportedEstimator(f"{part}step {name!r}", "is the last one and predicts nothing; end with a predictor")
    return final_estimator(writer, flow, step, f"{part}step {name!r}, ")


def transformed(writer: ProgramWriter, flow: Flow, step: object, part: str) -> Flow:
    """Write one transformer."""
    if _passes(step):
        return flow
    name = class_name(step)
    if name == PIPELINE:
        for inner, transformer in _steps(step, part):
            flow = transformed(writer, flow, transformer, f"{part}, step {inner!r}")
        return flow
    part = f"{part} ({type(step).__name__})"
    write = WRITERS.get(name)
    if write is None:
        raise UnsupportedEstimator(part, f"{name} is not among the transformers that can be packed: {_known()}")
    _check_width(step, flow, part)
    return write(writer, flow, step, part)


def raw_names(estimator: object) -> Sequence[str] | None:
    """The feature names that the first step was fitted on, if any."""
    if class_name(estimator) == PIPELINE:
        steps = [step for _, step in _steps(estimator, "") if not _passes(step)]
        return raw_names(steps[0]) if steps else None
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _steps(pipeline: object, part: str) -> list[tuple[str, object]]:
    if getattr(pipeline, "transform_input", None):
        raise UnsupportedEstimator(f"{part}Pipeline, parameter transform_input", "is not packed; leave it None")
    return list(pipeline.steps)  # type: ignore[attr-defined]


def _passes(step: object) -> bool:
    """Whether a step hands its input through."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return True
    return class_name(step) == FUNCTION and step.func is None  # type: ignore[attr-defined]


def _check_width(step: object, flow: Flow, part: str) -> None:
    expected = getattr(step, "n_features_in_", None)
    if expected is None:
        raise UnsupportedEstimator(part, "is not fitted; call fit first")
    if expected != len(flow.real):
        raise UnsupportedEstimator(part, f"was fitted on {expected} columns, but {len(flow.real)} reach it")


def _write_one_hot(writer: ProgramWriter, flow: Flow, encoder: object, part: str) -> Flow:
    columns = write_one_hot(writer, flow.columns, encoder, part)
    return Flow(columns=columns, sparse=bool(getattr(encoder, "sparse_output", False)))


def _column_wise(write: Writer) -> Callable[[ProgramWriter, Flow, object, str], Flow]:
    def run(writer: ProgramWriter, flow: Flow, transformer: object, part: str) -> Flow:
        return Flow(columns=write(writer, flow.columns, transformer, part, sparse=flow.sparse), sparse=flow.sparse)

    return run


def _write_branches(writer: ProgramWriter, flow: Flow, transformer: object, part: str) -> Flow:
    """``ColumnTransformer``: every branch works on copies of its columns; their outputs stand side by side."""
    if transformer.transformer_weights:  # type: ignore[attr-defined]
        raise UnsupportedEstimator(f"{part}, parameter transformer_weights", "is not packed; leave it None")
    names = getattr(transformer, "feature_names_in_", None)
    known = None if names is None else [str(name) for name in names]
    outputs: list[Column] = []
    for name, branch, selection in transformer.transformers_:  # type: ignore[attr-defined]
        positions = _selected(selection, known, len(flow.real), f"{part}, transformer {name!r}")
        if not positions or (isinstance(branch, str) and branch == "drop"):
            continue
        inputs = Flow(columns=[writer.copy(flow.real[i]) for i in positions], sparse=flow.sparse)
        outputs += transformed(writer, inputs, branch, f"{part}, transformer {name!r}").columns
    return Flow(columns=outputs, sparse=bool(getattr(transformer, "sparse_output_", False)))


def _selected(selection: object, names: list[str] | None, width: int, part: str) -> list[int]:
    """A fitted column selection as positions."""
    if isinstance(selection, slice):
        return _sliced(selection, names, width, part)
    if isinstance(selection, str | int | np.integer):
        return [_position(selection, names, width, part)]
    if not isinstance(selection, Iterable):
        raise UnsupportedEstimator(part, f"selects its columns by a {type(selection).__name__}; use names or positions")
    items = list(selection)
    if items and all(isinstance(item, bool | np.bool_) for item in items):
        return [i for i, chosen in enumerate(items) if chosen]
    return [_position(item, names, width, part) for item in items]


def _sliced(selection: slice, names: list[str] | None, width: int, part: str) -> list[int]:
    """Slices of names include their end, slices of positions do not."""
    start, stop = selection.start, selection.stop
    if isinstance(start, str) or isinstance(stop, str):
        start = None if start is None else _position(start, names, width, part)
        stop = None if stop is None else _position(stop, names, width, part) + 1
    return list(range(width))[start : stop : selection.step]


def _position(item: object, names: list[str] | None, width: int, part: str) -> int:
    if isinstance(item, str):
        if names is None or item not in names:
            raise UnsupportedEstimator(part, f"selects the column {item!r}, which it was not fitted on")
        return names.index(item)
    if isinstance(item, int | np.integer) and -width <= int(item) < width:
        return int(item) % width
    raise UnsupportedEstimator(part, f"selects the column {item!r} of {width}; use names or positions")


WRITERS: dict[str, Callable[[ProgramWriter, Flow, object, str], Flow]] = {
    **{name: _column_wise(write) for name, write in COLUMN_WISE.items()},
    ONE_HOT: _write_one_hot,
    COLUMN_TRANSFORMER: _write_branches,
}


def _known() -> str:
    return ", ".join(sorted(name.rsplit(".", 1)[1] for name in [*WRITERS, PIPELINE]))
