"""MLflow's scoring protocol: ``POST /invocations`` with a table in one of its forms, answered by ``predictions``."""

import csv
import io
import sys
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Final, TypeAlias
from urllib.parse import parse_qs

import msgspec

from shoal.errors import InvalidInput, NotReady
from shoal.server.decoding import decode
from shoal.server.pieces import LARGE_BYTES, read_list
from shoal.server.wire import strung
from shoal.serving.addresses import split
from shoal.serving.messages import Datatype, InferenceRequest, InferenceResponse, ModelMetadata, Tensor, TensorMetadata
from shoal.serving.plane import DataPlane
from shoal.table.texts import INEXACT

CSV_KIND: Final = b"text/csv"
_FLEET_HEADER: Final = b"x-shoal-fleet"
_SHOWN: Final = 10
_KINDS: Final = {
    Datatype.BOOL: "true or false",
    Datatype.INT64: "whole numbers",
    Datatype.FP64: "numbers",
    Datatype.BYTES: "texts",
}
_NUMBERS: Final = (Datatype.INT64, Datatype.FP64)
_LEAST, _MOST = -(2**63), 2**63 - 1

_Cell: TypeAlias = bool | int | float | str | None
_Columns: TypeAlias = "Mapping[str, Sequence[_Cell]]"
_Nested: TypeAlias = list[_Cell | list[_Cell]]


class _Split(msgspec.Struct, frozen=True):
    columns: list[str | int]
    data: list[list[_Cell]]


class _Invocation(msgspec.Struct, frozen=True):
    """One of MLflow's four forms; ``params`` and the index of a table are nothing to us."""

    dataframe_split: _Split | None = None
    dataframe_records: list[dict[str, _Cell]] | None = None
    instances: list[dict[str, _Cell] | list[_Cell] | _Cell] | None = None
    inputs: dict[str, _Nested | _Cell] | list[dict[str, _Cell] | list[_Cell] | _Cell] | None = None


class _SplitOutline(msgspec.Struct, frozen=True):
    columns: list[str | int]
    data: msgspec.Raw


class _Outline(msgspec.Struct, frozen=True):
    """A large one, what is long of it as it was sent."""

    dataframe_split: _SplitOutline | None = None
    dataframe_records: msgspec.Raw = msgspec.Raw(b"null")
    instances: msgspec.Raw = msgspec.Raw(b"null")
    inputs: msgspec.Raw = msgspec.Raw(b"null")


_decoder: Final = msgspec.json.Decoder(_Invocation)
_outline_decoder: Final = msgspec.json.Decoder(_Outline)
_lists_decoder: Final = msgspec.json.Decoder(list[list[_Cell]])
_records_decoder: Final = msgspec.json.Decoder(list[dict[str, _Cell]])
_rows_decoder: Final = msgspec.json.Decoder(list[dict[str, _Cell] | list[_Cell] | _Cell])
_cells_decoder: Final = msgspec.json.Decoder(list[_Cell | list[_Cell]])
_cell_decoder: Final = msgspec.json.Decoder(_Cell)
_columns_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def chosen_fleet(plane: DataPlane, headers: Mapping[bytes, bytes], query: bytes) -> str:
    """The fleet or model that is asked: by the header ``X-Shoal-Fleet``, by ``?fleet=``, or the only one there is.

    Raises
    ------
    InvalidInput
        There are several fleets, or none, and the request names none; or it names two.
    NotReady
        It names none, and the server does not serve any yet.
    """
    given = headers.get(_FLEET_HEADER, b"").decode("latin-1")
    asked = parse_qs(query.decode("latin-1")).get("fleet", [])
    named = list(dict.fromkeys([given, *asked] if given else asked))
    if len(named) > 1:
        where = "?fleet= and the header X-Shoal-Fleet name" if given else "?fleet= names"
        raise InvalidInput(f"{where} {named[0]!r} and {named[1]!r}; name one")
    if named:
        return named[0]
    served = [entry.name for entry in plane.index(ready=True)]
    if not served and not plane.ready():
        raise NotReady("the server is starting; try again")
    if len(served) != 1:
        shown = ", ".join(served[:_SHOWN]) + (", ..." if len(served) > _SHOWN else "") or "none"
        raise InvalidInput(f"say which fleet is meant, by ?fleet=NAME or the header X-Shoal-Fleet; served are: {shown}")
    return served[0]


def keys_said(plane: DataPlane, model: str) -> tuple[TensorMetadata, ...]:
    """The key columns of a fleet where one of its models is asked, whose address says them."""
    fleet, key = split(model)
    if key is None:
        return ()
    described = plane.model_metadata(fleet)
    return described.inputs[: int(described.properties["keys"])]


def invocation_request(
    body: bytes, kind: bytes, metadata: ModelMetadata, said: Sequence[TensorMetadata] = ()
) -> InferenceRequest:
    """Read a request.

    Parameters
    ----------
    body : bytes
        All of it.
    kind : bytes
        Its content type; JSON unless it is CSV.
    metadata : ModelMetadata
        Of the fleet or model that is asked. Columns that it does not take are left out, as MLflow does.
    said : sequence of TensorMetadata
        Inputs that are not left out though it does not take them, so that they are refused: key columns that the
        address says, maybe otherwise than the rows.

    Raises
    ------
    InvalidInput
        It is of none of MLflow's forms, its rows or columns are not all of one length, or it has none of the columns
        that are taken, or one whose values are not what is taken.
    """
    taken = {one.name: one for one in (*metadata.inputs, *said)}
    names = [one.name for one in metadata.inputs]
    columns = _csv_columns(body) if kind == CSV_KIND else _json_columns(body, names, taken)
    given = [one for one in taken.values() if one.name in columns]
    if not given:
        raise _no_columns(names, kind)
    _require_one_length([one.name for one in given], columns)
    if kind == CSV_KIND:
        inputs = [_texts(one.name, columns[one.name]) for one in given]
    else:
        inputs = [_tensor(one, columns[one.name]) for one in given]
    answers = [one.name for one in metadata.outputs]
    wanted = ("prediction",) if "prediction" in answers else ("score", "is_anomaly")
    return InferenceRequest(model=metadata.name, inputs=tuple(inputs), outputs=wanted)


def _no_columns(names: Sequence[str], kind: bytes) -> InvalidInput:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    if kind == CSV_KIND:
        return InvalidInput(f"the first line names none of the columns; put them there, with commas between: {shown}")
    return InvalidInput(f"the request has none of the columns; they are: {shown}")


def _require_one_length(names: Sequence[str], columns: _Columns) -> None:
    first = names[0]
    for name in names[1:]:
        if len(columns[name]) != len(columns[first]):
            raise InvalidInput(
                f"column {first!r} has {len(columns[first])} value(s) and {name!r} has {len(columns[name])}; "
                "give each row one of each"
            )


def predictions(response: InferenceResponse) -> list[object]:
    """One prediction per row; where there are several outputs, a mapping of them. None where there is no answer."""
    if len(response.outputs) == 1:
        return list(response.outputs[0].data)
    names = [tensor.name for tensor in response.outputs]
    rows = zip(*[tensor.data for tensor in response.outputs], strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _json_columns(body: bytes, names: Sequence[str], taken: Collection[str]) -> _Columns:
    """Columns by name; ``names`` are those of columns without one, in their order."""
    asked = decode(_decoder, body) if len(body) < LARGE_BYTES else _large_invocation(body)
    given = [one for one in msgspec.structs.astuple(asked) if one is not None]
    if len(given) != 1:
        raise InvalidInput("give one of dataframe_split, dataframe_records, instances and inputs, and only one")
    if asked.dataframe_split is not None:
        return _transposed(_named(asked.dataframe_split.columns, names), asked.dataframe_split.data)
    if isinstance(asked.inputs, dict):
        return {name: _flat(name, column) for name, column in asked.inputs.items() if name in taken}
    return _rows(given[0], names, taken)


def _named(columns: Sequence[str | int], names: Sequence[str]) -> Sequence[str]:
    """Names of a frame's columns; those without any, which are numbered then, are in the order of the inputs."""
    if not all(type(column) is int for column in columns):
        return columns  # type: ignore[return-value]
    if list(columns) != list(range(len(names))):
        raise InvalidInput(
            f"the columns have to have names; numbered from 0 on they are {list(names)[:_SHOWN]}, in that order"
        )
    return names


def _flat(name: str, column: _Nested | _Cell) -> Sequence[_Cell]:
    if not isinstance(column, list):
        return [column]
    is_nested = list in set(map(type, column))
    return strung(column, name, (len(column), 1)) if is_nested else column  # type: ignore[return-value]


def _large_invocation(body: bytes) -> _Invocation:
    """What the decoder of small requests makes of a body, without keeping everybody waiting."""
    outline = decode(_outline_decoder, body)
    records, instances, inputs = map(bytes, (outline.dataframe_records, outline.instances, outline.inputs))
    split = outline.dataframe_split
    try:
        return _Invocation(
            None if split is None else _Split(split.columns, read_list(bytes(split.data), _lists_decoder)),
            None if records == b"null" else read_list(records, _records_decoder),
            None if instances == b"null" else read_list(instances, _rows_decoder),
            _large_inputs(inputs),
        )
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the request is not of the form that is taken here: {error}") from error


def _large_inputs(
    raw: bytes,
) -> dict[str, _Nested | _Cell] | list[dict[str, _Cell] | list[_Cell] | _Cell] | None:
    if not raw.startswith(b"{"):
        return None if raw == b"null" else read_list(raw, _rows_decoder)
    columns = {name: bytes(column) for name, column in _columns_decoder.decode(raw).items()}
    return {
        name: read_list(column, _cells_decoder) if column.startswith(b"[") else _cell_decoder.decode(column)
        for name, column in columns.items()
    }


def _rows(rows: Sequence[object], names: Sequence[str], taken: Collection[str]) -> _Columns:
    """Columns of rows, each a mapping by name, a list in the order of the inputs, or the value of the only input."""
    kinds = set(map(type, rows))
    if kinds <= {dict}:
        records: Sequence[dict[str, _Cell]] = rows  # type: ignore[assignment]
        present = set(chain.from_iterable(records)) if records else set(names)
        return {name: [record.get(name) for record in records] for name in taken if name in present}
    if kinds == {list}:
        return _transposed(names, rows)  # type: ignore[arg-type]
    if not kinds & {dict, list} and len(names) == 1:
        return {names[0]: rows}  # type: ignore[dict-item]
    raise InvalidInput(
        f"each row has to be a mapping by column, or each a list of {list(names)[:_SHOWN]} in that order"
    )


def _transposed(names: Sequence[str], rows: Sequence[Sequence[_Cell]]) -> _Columns:
    if not set(map(len, rows)) <= {len(names)}:
        raise InvalidInput(f"each row has to have {len(names)} values: {list(names)[:_SHOWN]}")
    if len(set(names)) != len(names):
        raise InvalidInput("a column is given twice")
    return dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))


def _csv_columns(body: bytes) -> _Columns:
    """Columns of a table; each cell is a text that is read by itself, as of a file that is scored."""
    try:
        rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the body is no CSV: {error}") from error
    if not rows:
        raise InvalidInput("the body is empty; its first line has to name the columns")
    return _transposed(rows[0], rows[1:])


def _texts(name: str, cells: Sequence[_Cell]) -> Tensor:
    """A column of CSV as it stands there; an empty cell is missing."""
    return Tensor(name=name, datatype=Datatype.BYTES, shape=(len(cells),), data=[cell or None for cell in cells])


def _tensor(described: TensorMetadata, values: Sequence[_Cell]) -> Tensor:
    """A column as the tensor that its values make it, so that one that does not fit costs its row only."""
    if described.datatype is Datatype.INT64:  # a table with missing values has made floats of whole numbers
        values = [int(value) if type(value) is float and _is_exact(value) else value for value in values]
    datatype = _datatype(described.datatype, values)
    _require_kind(described, datatype)
    if datatype is Datatype.BYTES:
        is_number = described.datatype is Datatype.FP64
        values = [None if value is None else _text(value, is_number=is_number) for value in values]
    return Tensor(name=described.name, datatype=datatype, shape=(len(values),), data=list(values))


def _require_kind(described: TensorMetadata, datatype: Datatype) -> None:
    """Refuse a column all of whose values are of a kind that no row may have; texts are read as what they mean."""
    wanted = described.datatype
    if datatype in (wanted, Datatype.BYTES) or (wanted is Datatype.FP64 and datatype is Datatype.BOOL):
        return
    advice = "; write them in quotes" if wanted is Datatype.BYTES else ""
    raise InvalidInput(f"column {described.name!r} holds {_KINDS[datatype]}, and has to hold {_KINDS[wanted]}{advice}")


def _datatype(wanted: Datatype, values: Sequence[_Cell]) -> Datatype:
    """What values are; texts where they are of several kinds, or not all whole numbers where these are wanted."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return wanted
    if kinds == {bool}:
        return Datatype.BOOL
    if not kinds <= {int, float} or (wanted is Datatype.INT64 and not all(map(_is_whole, values))):
        return Datatype.BYTES
    if int in kinds and not all(map(_is_double, values)):
        return Datatype.BYTES
    return wanted if wanted in _NUMBERS else Datatype.FP64


def _is_whole(value: _Cell) -> bool:
    return value is None or (type(value) is int and _LEAST <= value <= _MOST)


def _is_exact(value: float) -> bool:
    return value.is_integer() and abs(value) < INEXACT


def _is_double(value: _Cell) -> bool:
    return type(value) is not int or -sys.float_info.max <= value <= sys.float_info.max


def _text(value: bool | float | str, *, is_number: bool) -> str:
    """A value as a text that is read back as just that; true and false are numbers where numbers are wanted."""
    if isinstance(value, bool):
        return repr(float(value)) if is_number else str(value).lower()
    return value if isinstance(value, str) else repr(value)
