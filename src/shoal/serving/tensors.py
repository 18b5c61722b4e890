"""From a request's tensors to the columns that are scored: checked one request at a time, merged many at once.

Everything that could make a merged batch fail is refused here, before the request meets others.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.errors import InvalidInput
from shoal.scoring.columns import Flags, RowColumns, to_numbers
from shoal.serving.messages import Data, Datatype, Tensor, TensorMetadata
from shoal.table.keys import coerce
from shoal.types import Feature, FeatureKind, Floats, KeyColumn, KeyType

Column: TypeAlias = Sequence[object] | NDArray[np.generic]
"""One input of one request: Python values (None where missing) or an array."""

NUMPY: Final[dict[Datatype, np.dtype[np.generic]]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
}
"""The arrays that elements of each datatype come in; texts come in lists or arrays of objects."""

KEY_DATATYPES: Final = {
    KeyType.STRING: Datatype.BYTES,
    KeyType.INTEGER: Datatype.INT64,
    KeyType.BOOLEAN: Datatype.BOOL,
    KeyType.DATE: Datatype.BYTES,
}

Convert: TypeAlias = Callable[[pl.Series], tuple[Column, Flags | None]]

#: Bytes that an element of a list counts for, beside a text's own.
ELEMENT_BYTES = 40

_NONE = type(None)
_NUMBER: Final[tuple[type, ...]] = (float, int)
_TEXT: Final[tuple[type, ...]] = (str,)
_ONE: Final = ((1,), (1, 1))
_FLOATS = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64})
_WHOLE = frozenset(d for d in NUMPY if d not in _FLOATS and d is not Datatype.BOOL)
_RANGES: Final[dict[Datatype, tuple[int, int]]] = {
    datatype: (int(np.iinfo(str(NUMPY[datatype])).min), int(np.iinfo(str(NUMPY[datatype])).max)) for datatype in _WHOLE
}
_LARGEST_KEY = 2**63 - 1
_FLOAT_KINDS: Final[tuple[set[type], ...]] = (
    {float},
    {int},
    {float, int},
    {float, _NONE},
    {int, _NONE},
    {float, int, _NONE},
    {_NONE},
    set(),
)
_UNMERGEABLE = (OverflowError, UnicodeEncodeError, TypeError, ValueError, pl.exceptions.PolarsError)


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of one request, checked.

    Attributes
    ----------
    columns : tuple of Column
        In the order of the schema's inputs.
    rows : int
        How many.
    size_bytes : int
        About how much memory they take.
    notes : mapping of int to str
        Rows that are not to be scored, and why.
    wrong : mapping of int to ndarray of bool
        By position of a column that came as texts: rows whose text is nothing that the column can hold.
    """

    columns: tuple[Column, ...]
    rows: int
    size_bytes: int
    notes: Mapping[int, str] = {}
    wrong: Mapping[int, Flags] = {}

    def is_repeatable(self, row: int) -> bool:
        """Whether a row's columns say all that its answer depends on."""
        return row not in self.notes and not any(flags[row] for flags in self.wrong.values())

    def slice(self, start: int, stop: int) -> "Rows":
        """Neighbouring rows."""
        columns = tuple([column[start:stop] for column in self.columns])
        size_bytes = self.size_bytes * (stop - start) // self.rows
        notes = {row - start: note for row, note in self.notes.items() if start <= row < stop}
        wrong = {position: flags[start:stop] for position, flags in self.wrong.items()}
        return Rows(columns=columns, rows=stop - start, size_bytes=size_bytes, notes=notes, wrong=wrong)

    def take(self, chosen: Sequence[int]) -> "Rows":
        """Some of the rows."""
        columns = tuple([[column[row] for row in chosen] for column in self.columns])
        size_bytes = self.size_bytes * len(chosen) // max(self.rows, 1)
        notes = {i: self.notes[row] for i, row in enumerate(chosen) if row in self.notes}
        wrong = {position: flags[list(chosen)] for position, flags in self.wrong.items()}
        return Rows(columns=columns, rows=len(chosen), size_bytes=size_bytes, notes=notes, wrong=wrong)


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
    convert : callable or None
        From texts to a column, and where they cannot be any of its values, as a fleet does with the texts of a frame;
        None where texts are refused, or are what it takes.
    """

    name: str
    datatype: Datatype
    position: int
    key: bool
    read: Callable[[Tensor], Column]
    merge: Callable[[str, Sequence[Column]], pl.Series | Floats]
    convert: Convert | None = None


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
        plain: dict[object, tuple[type, ...]] = {_read_numbers: _NUMBER, _read_texts: _TEXT}
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
            The request's.
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
            if convert is not None and tensor.datatype == "BYTES":
                column = _converted(tensor, convert, position, wrong)
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


def _converted(tensor: Tensor, convert: Convert, position: int, wrong: dict[int, Flags]) -> Column:
    column, bad = convert(_texts(tensor.name, [_read_texts(tensor)]))
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
        KeyType.STRING: (_read_texts, _texts),
        KeyType.DATE: (_read_texts, _texts),
        KeyType.INTEGER: (_read_integers, _integers),
        KeyType.BOOLEAN: (_read_booleans, _booleans),
    }
    read, merge = readers[column.type]
    datatype = KEY_DATATYPES[column.type]
    # What is looked up by has no outcome that could say of a row that its text was none: it is refused.
    convert = _converting(column) if key and datatype is not Datatype.BYTES else None
    return Input(
        name=column.name, datatype=datatype, position=position, key=key, read=read, merge=merge, convert=convert
    )  # fmt: skip


def _converting(key: KeyColumn) -> Convert:
    def convert(texts: pl.Series) -> tuple[Column, Flags | None]:
        values, wrong = coerce(texts, key)
        return values.to_list(), wrong

    return convert


def _feature_input(position: int, feature: Feature) -> Input:
    name = feature.name
    if feature.kind is FeatureKind.CATEGORY:
        return Input(
            name=name, datatype=Datatype.BYTES, position=position, key=False, read=_read_texts, merge=_texts
        )  # fmt: skip
    return Input(
        name=name, datatype=Datatype.FP64, position=position, key=False, read=_read_numbers, merge=_numbers,
        convert=to_numbers,
    )  # fmt: skip


def _read_numbers(tensor: Tensor) -> Column:
    """Numbers as float64, or as they came where a list already holds nothing else."""
    data, datatype = tensor.data, tensor.datatype
    if datatype == "FP64" and type(data) is not np.ndarray:
        if len(data) == 1:
            kind = type(data[0])
            if kind is float or data[0] is None or kind is int:
                return data
        elif set(map(type, data)) in _FLOAT_KINDS:
            return data if len(data) < 256 else _floats(data)
        raise _odd_elements(tensor, "numbers")
    if type(data) is np.ndarray:
        return _array(tensor).astype(np.float64)
    if datatype in _FLOATS:
        if set(map(type, data)) not in _FLOAT_KINDS:
            raise _odd_elements(tensor, "numbers")
        with np.errstate(over="ignore"):
            return _floats(data).astype(NUMPY[datatype]).astype(np.float64)
    return _floats(_read_booleans(tensor) if datatype == "BOOL" else _whole_numbers(tensor))


def _floats(values: Column) -> Floats:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise InvalidInput(f"a number is too large for double precision ({error})") from error


def _read_integers(tensor: Tensor) -> Column:
    if tensor.datatype not in _WHOLE:
        raise _wrong_datatype(tensor, "an integer: INT64, or another integer datatype")
    if type(tensor.data) is not np.ndarray:
        values = _whole_numbers(tensor)
        if tensor.datatype == "UINT64" and max([v for v in values if v is not None], default=0) > _LARGEST_KEY:
            raise _out_of_range(tensor)
        return values
    array = _array(tensor)
    if tensor.datatype == "UINT64" and array.size and int(array.max()) > _LARGEST_KEY:
        raise _out_of_range(tensor)
    return array.astype(np.int64)


def _whole_numbers(tensor: Tensor) -> Sequence[int | None]:
    """A list's elements if they are integers of the tensor's datatype, or missing."""
    data = tensor.data
    if not set(map(type, data)) <= {int, _NONE}:
        raise _odd_elements(tensor, "whole numbers")
    least, most = _RANGES[tensor.datatype]
    present = data if None not in data else [value for value in data if value is not None]
    if present and not (least <= min(present) and max(present) <= most):
        raise _out_of_range(tensor)
    return data  # type: ignore[return-value]


def _read_booleans(tensor: Tensor) -> Column:
    if tensor.datatype != "BOOL":
        raise _wrong_datatype(tensor, "true or false: BOOL")
    if type(tensor.data) is np.ndarray:
        return _array(tensor)
    if not set(map(type, tensor.data)) <= {bool, _NONE}:
        raise _odd_elements(tensor, "true or false")
    return tensor.data


def _read_texts(tensor: Tensor) -> Column:
    if tensor.datatype != "BYTES":
        raise _wrong_datatype(tensor, "a text: BYTES")
    data = tensor.data
    if len(data) == 1 and type(data[0]) is str and data[0].isascii():
        return data
    if type(data) is np.ndarray:
        data = data.reshape(-1).tolist()
    kinds = set(map(type, data))
    if bytes in kinds:
        data, kinds = _decoded(tensor.name, data), (kinds - {bytes}) | {str}
    if not kinds <= {str, _NONE}:
        raise _odd_elements(tensor, "texts")
    try:
        "".join([text for text in data if text is not None]).encode()  # type: ignore[misc]
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {tensor.name!r} has a text that is no Unicode ({error.reason})") from error
    return data


def _decoded(name: str, data: Data) -> list[str | bytes | int | float | None]:
    try:
        return [value.decode() if type(value) is bytes else value for value in data]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input {name!r} has a text that is no UTF-8 ({error.reason})") from error


def _array(tensor: Tensor) -> NDArray[np.generic]:
    """A tensor's array if it is of its datatype."""
    array = tensor.data
    assert isinstance(array, np.ndarray)
    expected = NUMPY[tensor.datatype]
    if array.dtype.newbyteorder("=") != expected:
        raise InvalidInput(f"input {tensor.name!r} says {tensor.datatype}, but its elements are {array.dtype}")
    return array.reshape(-1)


def _odd_elements(tensor: Tensor, wanted: str) -> InvalidInput:
    return InvalidInput(
        f"input {tensor.name!r} says {tensor.datatype}, but not all of its elements are {wanted} (or null)"
    )


def _wrong_datatype(tensor: Tensor, wanted: str) -> InvalidInput:
    return InvalidInput(f"input {tensor.name!r} is {tensor.datatype}, but it has to be {wanted}")


def _out_of_range(tensor: Tensor) -> InvalidInput:
    return InvalidInput(f"input {tensor.name!r} has a number that is out of range for it as {tensor.datatype}")


def _merged(columns: Sequence[Column]) -> list[object]:
    """Python values of many requests, one behind the other."""
    if np.ndarray in set(map(type, columns)):
        columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    return list(chain.from_iterable(columns))


def _numbers(_name: str, columns: Sequence[Column]) -> Floats:
    if len(columns) == 1:
        return np.asarray(columns[0], dtype=np.float64)
    if max(map(len, columns)) >= 256:
        return np.concatenate([np.asarray(column, dtype=np.float64) for column in columns])
    return np.array(_merged(columns), dtype=np.float64)


def _integers(name: str, columns: Sequence[Column]) -> pl.Series:
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    if len(arrays) == len(columns):
        return pl.Series(name, np.concatenate(arrays))
    return pl.Series(name, _merged(columns), dtype=pl.Int64)


def _texts(name: str, columns: Sequence[Column]) -> pl.Series:
    return pl.Series(name, _merged(columns) if len(columns) > 1 else columns[0], dtype=pl.String)


def _booleans(name: str, columns: Sequence[Column]) -> pl.Series:
    return pl.Series(name, _merged(columns), dtype=pl.Boolean)
