"""A fleet's inputs: a request's tensors are checked against them one request at a time, and merged many at once.

Everything that could make a merged batch fail is refused here, before the request meets others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, TypeAlias

import numpy as np
import polars as pl

from shoal.errors import InvalidInput, TooLarge
from shoal.scoring.columns import Flags, RowColumns, to_numbers
from shoal.serving.matrices import is_matrix, taken_apart
from shoal.serving.messages import Datatype, Tensor, TensorMetadata
from shoal.serving.rows import Column, Rows, merged_booleans, merged_integers, merged_numbers, merged_texts
from shoal.serving.tensors import read_booleans, read_integers, read_numbers, read_texts, read_unsigned
from shoal.table.keys import coerce
from shoal.types import Feature, FeatureKind, Floats, KeyColumn, KeyType

KEY_DATATYPES: Final = {
    KeyType.STRING: Datatype.BYTES,
    KeyType.INTEGER: Datatype.INT64,
    KeyType.BOOLEAN: Datatype.BOOL,
    KeyType.DATE: Datatype.BYTES,
}

Convert: TypeAlias = Callable[[Tensor], tuple[Column, Flags | None]]

#: Bytes that an element of a list counts for, beside a text's own.
ELEMENT_BYTES = 40

_NUMBER: Final[tuple[type, ...]] = (float, int)
_TEXT: Final[tuple[type, ...]] = (str,)
_SHOWN: Final = 10
_ONE: Final = ((1,), (1, 1))
_UNMERGEABLE = (OverflowError, UnicodeEncodeError, TypeError, ValueError, pl.exceptions.PolarsError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One input of a fleet.

    Attributes
    ----------
    name : str
        The column.
    datatype : Datatype
        What the metadata says.
    position : int
        Among the schema's inputs.
    key : bool
        Whether it is a key column.
    read : callable
        From a tensor's datatype and elements to a column; raises :class:`InvalidInput`.
    merge : callable
        From the columns of many requests to one series, or an array where it is numbers.
    convert : mapping of Datatype to callable
        For datatypes with elements that it may not be able to hold, such as texts where it is numbers: from a tensor to
        a column, and where there are such elements, as a fleet does with a frame.
    """

    name: str
    datatype: Datatype
    position: int
    key: bool
    read: Callable[[Tensor], Column]
    merge: Callable[[str, Sequence[Column]], pl.Series | Floats]
    convert: Mapping[Datatype, Convert] = field(default_factory=dict)


class InputSchema:
    """The inputs of a fleet: its key columns, then its features, then what else is looked up by.

    Parameters
    ----------
    keys : sequence of KeyColumn
        The key columns.
    features : sequence of Feature
        The features.
    extra : sequence of KeyColumn
        Columns that features are looked up by and that are neither.
    brought : collection of str
        Features that a request need not have, for they are looked up.
    """

    def __init__(
        self,
        keys: Sequence[KeyColumn],
        features: Sequence[Feature],
        extra: Sequence[KeyColumn] = (),
        brought: Collection[str] = (),
    ) -> None:
        taken = {column.name for column in keys}
        inputs = [_key_input(i, column, key=True) for i, column in enumerate(keys)]
        inputs += [_feature_input(len(keys) + i, f) for i, f in enumerate(f for f in features if f.name not in taken)]
        inputs += [_key_input(len(inputs) + i, column, key=False) for i, column in enumerate(extra)]
        self.inputs = tuple(inputs)
        self._extra = frozenset(column.name for column in extra)
        self._brought = frozenset(brought)
        self._readers = {one.name: (one.position, one.read, one.convert) for one in self.inputs}
        plain: dict[object, tuple[type, ...]] = {read_numbers: _NUMBER, read_texts: _TEXT}
        self._plain = [(one.name, one.datatype, plain.get(one.read, ())) for one in self.inputs]

    def metadata(self, *, keys: bool = True, features: Sequence[str] | None = None) -> tuple[TensorMetadata, ...]:
        """The inputs as clients see them, with or without the key columns, all features or some."""
        return tuple(
            TensorMetadata(name=one.name, datatype=one.datatype, shape=(-1,))
            for one in self.inputs
            if (keys if one.key else features is None or one.name in features or one.name in self._extra)
        )

    def rows(
        self,
        tensors: Sequence[Tensor],
        constants: Sequence[object] | None = None,
        needed: Callable[[], frozenset[str]] | None = None,
    ) -> Rows:
        """Check a request's inputs.

        Parameters
        ----------
        tensors : sequence of Tensor
            The request's: one per column, or a matrix of all features, whatever it is called, beside the others.
        constants : sequence, optional
            Values of the key columns where the address says them; key inputs are not taken then.
        needed : callable, optional
            Asked when inputs are missing: those that are needed. All of them unless told.

        Raises
        ------
        InvalidInput
            An input is missing, unknown, given twice, or has the wrong shape, datatype or elements.
        """
        if constants is None and len(tensors) == len(self._plain):
            row = self._plain_row(tensors)
            if row is not None:
                return row
        tensors = self._by_column(tensors, needed)
        found: list[Column | None] = [None] * len(self.inputs)
        wrong: dict[int, Flags] = {}
        rows, size_bytes = -1, 0
        for tensor in tensors:
            reader = self._readers.get(tensor.name)
            if reader is None:
                raise InvalidInput(f"there is no input {tensor.name!r}; there are {self._names(constants is None)}")
            position, read, convert = reader
            if found[position] is not None:
                raise InvalidInput(f"input {tensor.name!r} is given twice")
            shape = tensor.shape
            if rows < 0:
                rows = shape[0] if shape else -1
            if not shape or shape[0] != rows or (len(shape) > 1 and shape[1:] != (1,)) or len(tensor.data) != rows:
                raise _misshapen(tensor, rows)
            if tensor.datatype in convert:
                column = _converted(tensor, convert[tensor.datatype], position, wrong)
            else:
                column = read(tensor)
                size_bytes += _text_bytes(column) if tensor.datatype == "BYTES" else 0
            size_bytes += column.nbytes if type(column) is np.ndarray else ELEMENT_BYTES * rows
            found[position] = column
        if rows < 0:
            raise InvalidInput(f"the request has no inputs; it takes {self._names(constants is None)}")
        if constants is not None:
            self._fill_keys(found, constants, rows)
        if any(column is None for column in found):
            self._fill_missing(found, rows, needed)
        return Rows(columns=tuple(found), rows=rows, size_bytes=size_bytes, wrong=wrong)  # type: ignore[arg-type]

    def _by_column(self, tensors: Sequence[Tensor], needed: Callable[[], frozenset[str]] | None) -> Sequence[Tensor]:
        """A request's tensors, with one per feature in place of a matrix."""
        matrices = [tensor for tensor in tensors if is_matrix(tensor, self._readers)]
        if not matrices:
            return tensors
        if len(matrices) > 1:
            names = [matrix.name for matrix in matrices[:_SHOWN]]
            raise InvalidInput(f"there are no inputs {names}, and only one of them can be the matrix of all features")
        others = [tensor for tensor in tensors if tensor is not matrices[0]]
        return [*others, *taken_apart(matrices[0], self._features(needed))]

    def _features(self, needed: Callable[[], frozenset[str]] | None) -> list[str]:
        """The features that the metadata tells of, in its order."""
        names = [one.name for one in self.inputs if not one.key and one.name not in self._extra]
        if needed is None:
            return names
        own = needed()
        return [name for name in names if name in own]

    def names(self, tensors: Sequence[Tensor], needed: Callable[[], frozenset[str]] | None = None) -> list[str]:
        """The columns that a request brings; parameters as of :meth:`rows`, which raises what there is to be raised."""
        brought = ([t.name] if not is_matrix(t, self._readers) else self._features(needed) for t in tensors)
        return list(chain.from_iterable(brought))

    def _plain_row(self, tensors: Sequence[Tensor]) -> Rows | None:
        """One row of numbers and texts, all of them there, in order, as most requests are; None for anything else."""
        columns = []
        size_bytes = ELEMENT_BYTES * len(tensors)
        for (name, datatype, kinds), tensor in zip(self._plain, tensors, strict=True):
            data = tensor.data
            if tensor.name != name or tensor.datatype is not datatype or tensor.shape not in _ONE or len(data) != 1:
                return None
            value = data[0]
            if type(value) not in kinds:
                return None
            if kinds is _TEXT:
                if not value.isascii():  # type: ignore[union-attr]
                    return None
                size_bytes += len(value)  # type: ignore[arg-type]
            columns.append(data)
        return Rows(columns=tuple(columns), rows=1, size_bytes=size_bytes)

    def _fill_keys(self, found: list[Column | None], constants: Sequence[object], rows: int) -> None:
        for position, value in enumerate(constants):
            if found[position] is not None:
                raise InvalidInput(
                    f"input {self.inputs[position].name!r} is a key column, which the address says; leave it out"
                )
            found[position] = [value] * rows

    def _fill_missing(self, found: list[Column | None], rows: int, needed: Callable[[], frozenset[str]] | None) -> None:
        names = {one.name for one in self.inputs} if needed is None else needed() | self._extra
        names -= self._brought
        lacking = [one.name for one in self.inputs if found[one.position] is None and one.name in names]
        if lacking:
            takes = [one.name for one in self.inputs if one.name in names]
            raise InvalidInput(f"the request lacks the input(s) {lacking}; it takes {takes}")
        for one in self.inputs:
            if found[one.position] is None:
                found[one.position] = [None] * rows

    def nothing(self) -> Rows:
        """One row of missing values."""
        return Rows(columns=tuple([[None]] * len(self.inputs)), rows=1, size_bytes=0)

    def columns(self, requests: Sequence[Rows]) -> RowColumns:
        """The rows of many requests together, in their order, as they are scored.

        Raises
        ------
        InvalidInput
            Something in one of them cannot be converted.
        """
        columns = zip(*[request.columns for request in requests], strict=True)
        try:
            merged = {one.name: one.merge(one.name, c) for one, c in zip(self.inputs, columns, strict=True)}
        except _UNMERGEABLE as error:
            raise InvalidInput(f"the inputs cannot be converted: {error}") from error
        wrong = self._wrong(requests) if any(request.wrong for request in requests) else {}
        return RowColumns(height=sum([request.rows for request in requests]), columns=merged, wrong=wrong)

    def _wrong(self, requests: Sequence[Rows]) -> dict[str, Flags]:
        positions = sorted({position for request in requests for position in request.wrong})
        return {
            self.inputs[position].name: np.concatenate(
                [request.wrong.get(position, np.zeros(request.rows, dtype=np.bool_)) for request in requests]
            )
            for position in positions
        }

    def _names(self, keys: bool) -> list[str]:
        return [one.name for one in self.inputs if keys or not one.key]


def given_rows(tensors: Sequence[Tensor], most: int) -> int:
    """Rows of a request, before it is read.

    Raises
    ------
    TooLarge
        More than it may have.
    """
    given = 0
    if tensors:
        first = tensors[0]
        given = first.shape[0] if is_matrix(first, ()) else len(first.data)
    if given > most:
        raise TooLarge(f"{given} rows in one request; send at most {most} at a time")
    return given


def _converted(tensor: Tensor, convert: Convert, position: int, wrong: dict[int, Flags]) -> Column:
    column, bad = convert(tensor)
    if bad is not None:
        wrong[position] = bad
    return column


def _text_bytes(column: Column) -> int:
    return sum([len(text) for text in column if text is not None])  # type: ignore[arg-type, misc]


def _misshapen(tensor: Tensor, rows: int) -> InvalidInput:
    return InvalidInput(
        f"input {tensor.name!r} has shape {list(tensor.shape)} and {len(tensor.data)} elements; "
        f"give every input the shape [{max(rows, 0)}] or [{max(rows, 0)}, 1], and as many elements"
    )


def _key_input(position: int, column: KeyColumn, *, key: bool) -> Input:
    readers: dict[KeyType, tuple[Callable[[Tensor], Column], Callable[[str, Sequence[Column]], pl.Series]]] = {
        KeyType.STRING: (read_texts, merged_texts),
        KeyType.DATE: (read_texts, merged_texts),
        KeyType.INTEGER: (read_integers, merged_integers),
        KeyType.BOOLEAN: (read_booleans, merged_booleans),
    }
    read, merge = readers[column.type]
    return Input(
        name=column.name, datatype=KEY_DATATYPES[column.type], position=position, key=key, read=read, merge=merge,
        convert=_key_conversions(column, key=key),
    )  # fmt: skip


def _key_conversions(column: KeyColumn, *, key: bool) -> Mapping[Datatype, Convert]:
    def converted(given: pl.Series) -> tuple[Column, Flags | None]:
        values, wrong = coerce(given, column)
        # What is looked up by and cannot be a key finds nothing, as in a job.
        return values.to_list(), wrong if key else None

    if KEY_DATATYPES[column.type] is Datatype.BYTES:
        return {}
    conversions: dict[Datatype, Convert] = {Datatype.BYTES: lambda tensor: converted(_texts(tensor))}
    if column.type is KeyType.INTEGER:
        conversions[Datatype.UINT64] = lambda tensor: converted(read_unsigned(tensor))
    return conversions


def _feature_input(position: int, feature: Feature) -> Input:
    name = feature.name
    if feature.kind is FeatureKind.CATEGORY:
        return Input(
            name=name, datatype=Datatype.BYTES, position=position, key=False, read=read_texts, merge=merged_texts
        )  # fmt: skip
    return Input(
        name=name, datatype=Datatype.FP64, position=position, key=False, read=read_numbers, merge=merged_numbers,
        convert={Datatype.BYTES: lambda tensor: to_numbers(_texts(tensor))},
    )  # fmt: skip


def _texts(tensor: Tensor) -> pl.Series:
    return merged_texts(tensor.name, [read_texts(tensor)])
