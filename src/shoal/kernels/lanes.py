"""Eight numbers at a time: a small explicit-SIMD vocabulary for kernels.

LLVM's loop vectoriser leaves scalar tails, spills accumulators to memory and may order a sum by the number of
neighbours. Here the shape is spelled out instead: a :class:`Lanes` value is one vector of eight doubles for each of
``rows`` rows, it lives in registers, and every operation works on all of them. LLVM splits or widens the vectors to
what the processor has (one AVX-512 register, two AVX2, four SSE2 or NEON), so the code is portable, and the same
instructions are met by every row, so its answer cannot depend on its neighbours.

All functions and operators below exist in compiled code only. They carry no fast-math flags, and :func:`lane_function`
asks for none: what is to be fused is written as :func:`multiply_add`. Nor does such a function count references to
its arrays, which it borrows from its caller: two atomic operations per array and tile cost more than the arithmetic.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import numba
from llvmlite import ir
from numba import types as nt
from numba.core import cgutils
from numba.core.datamodel.manager import DataModelManager
from numba.core.datamodel.models import PrimitiveModel
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload, register_model
from numba.np import arrayobj

from shoal.kernels.compile import BORROWING
from shoal.types import Floats

#: Numbers in one vector.
WIDTH = 8

#: How lane functions and their kernels are compiled; none of them may allocate.
LANE_OPTIONS: dict[str, Any] = {**BORROWING, "fastmath": False}

_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, WIDTH)
_BITS = ir.VectorType(ir.IntType(64), WIDTH)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)

Function = TypeVar("Function", bound=Callable[..., Any])
Emit = Callable[..., ir.Value]


class Lanes(Protocol):
    """Eight float64 for each of a fixed number of rows; an operand with one row, or a float, serves all rows."""

    def __add__(self, other: "Lanes | float") -> "Lanes": ...
    def __sub__(self, other: "Lanes | float") -> "Lanes": ...
    def __mul__(self, other: "Lanes | float") -> "Lanes": ...
    def __truediv__(self, other: "Lanes | float") -> "Lanes": ...


class LanesType(nt.Type):
    """The compiler's type of a :class:`Lanes` value with so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(name=f"Lanes({rows})")


@register_model(LanesType)
class LanesModel(PrimitiveModel):
    """A :class:`LanesType` is an LLVM array of vectors, which the optimiser takes apart into registers."""

    def __init__(self, manager: DataModelManager, lanes: LanesType) -> None:
        super().__init__(manager, lanes, ir.ArrayType(_VECTOR, lanes.rows))  # type: ignore[no-untyped-call]


def lane_function(function: Function) -> Function:
    """A function on :class:`Lanes` that is always compiled into its caller."""
    return cast("Function", numba.njit(forceinline=True, **LANE_OPTIONS)(function))


def _broadcast(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH))


def _rows(builder: ir.IRBuilder, kind: nt.Type, value: ir.Value, rows: int) -> list[ir.Value]:
    """The operand's vectors, one per row."""
    if not isinstance(kind, LanesType):
        return [_broadcast(builder, value)] * rows
    vectors = [builder.extract_value(value, row) for row in range(kind.rows)]
    return vectors * rows if kind.rows == 1 else vectors


def _join(builder: ir.IRBuilder, vectors: Sequence[ir.Value]) -> ir.Value:
    joined = ir.Constant(ir.ArrayType(_VECTOR, len(vectors)), ir.Undefined)
    for row, vector in enumerate(vectors):
        joined = builder.insert_value(joined, vector, row)
    return joined


def _elementwise(emit: Emit, *operands: nt.Type) -> tuple[Any, Emit]:
    """An intrinsic's signature and code: ``emit`` for each row's vectors."""
    kinds = [kind if isinstance(kind, LanesType) else nt.float64 for kind in operands]
    result = LanesType(max(kind.rows for kind in kinds if isinstance(kind, LanesType)))

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        columns = [_rows(builder, k, v, result.rows) for k, v in zip(signature.args, values, strict=True)]
        return _join(builder, [emit(builder, *vectors) for vectors in zip(*columns, strict=True)])

    return result(*kinds), generate


def _pointer(context: Any, builder: ir.IRBuilder, kind: nt.Array, array: ir.Value, index: ir.Value) -> ir.Value:
    struct = arrayobj.make_array(kind)(context, builder, array)  # type: ignore[no-untyped-call]
    return builder.gep(struct.data, [index])


def _emit_fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    signature = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    name = f"llvm.fmuladd.v{WIDTH}f64"
    fused = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call]
    return builder.call(fused, [a, b, c])


def _emit_at_least(builder: ir.IRBuilder, value: ir.Value, least: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", value, least), least, value)


def _emit_at_most(builder: ir.IRBuilder, value: ir.Value, most: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", value, most), most, value)


def _emit_total(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Halves are added until one number is left: an order that is the same for every row."""
    width = WIDTH
    while width > 1:
        width //= 2
        nothing = ir.Constant(vector.type, ir.Undefined)
        masks = [range(width), range(width, 2 * width)]
        halves = [
            builder.shuffle_vector(vector, nothing, ir.Constant(ir.VectorType(_I32, width), list(mask)))
            for mask in masks
        ]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


@intrinsic
def _multiply_add(typing_context: Any, a: nt.Type, b: nt.Type, c: nt.Type) -> tuple[Any, Emit]:
    return _elementwise(_emit_fused, a, b, c)


def _binary(emit: Emit) -> Any:
    @intrinsic
    def apply(typing_context: Any, a: nt.Type, b: nt.Type) -> tuple[Any, Emit]:
        return _elementwise(emit, a, b)

    return apply


@intrinsic
def _load(typing_context: Any, like: LanesType, array: nt.Array, index: nt.Type) -> tuple[Any, Emit]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        start = builder.bitcast(_pointer(context, builder, array, values[1], values[2]), _VECTOR.as_pointer())
        places = [builder.gep(start, [ir.Constant(_I64, row)]) for row in range(like.rows)]
        return _join(builder, [builder.load(place, align=8) for place in places])

    return like(like, array, nt.int64), generate


@intrinsic
def _store(typing_context: Any, lanes: LanesType, array: nt.Array, index: nt.Type) -> tuple[Any, Emit]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        start = builder.bitcast(_pointer(context, builder, array, values[1], values[2]), _VECTOR.as_pointer())
        for row in range(lanes.rows):
            place = builder.gep(start, [ir.Constant(_I64, row)])
            builder.store(builder.extract_value(values[0], row), place, align=8)
        return context.get_dummy_value()

    return nt.void(lanes, array, nt.int64), generate


@intrinsic
def _spread(typing_context: Any, like: LanesType, array: nt.Array, index: nt.Type) -> tuple[Any, Emit]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        start = _pointer(context, builder, array, values[1], values[2])
        places = [builder.gep(start, [ir.Constant(_I64, row)]) for row in range(like.rows)]
        return _join(builder, [_broadcast(builder, builder.load(place)) for place in places])

    return like(like, array, nt.int64), generate


@intrinsic
def _store_totals(typing_context: Any, lanes: LanesType, array: nt.Array, index: nt.Type) -> tuple[Any, Emit]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        start = _pointer(context, builder, array, values[1], values[2])
        for row in range(lanes.rows):
            total = _emit_total(builder, builder.extract_value(values[0], row))
            builder.store(total, builder.gep(start, [ir.Constant(_I64, row)]))
        return context.get_dummy_value()

    return nt.void(lanes, array, nt.int64), generate


@intrinsic
def _prefetch(typing_context: Any, array: nt.Array, index: nt.Type) -> tuple[Any, Emit]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        place = builder.bitcast(_pointer(context, builder, array, *values), ir.IntType(8).as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [place.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [place, *(ir.Constant(_I32, flag) for flag in (0, 3, 1))])  # to read, keep, as data
        return context.get_dummy_value()

    return nt.void(array, nt.int64), generate


def bit_adder(shift: int) -> Callable[[Lanes, Lanes], Lanes]:
    """A compiled function ``(value, bits)``: the bits of ``value`` plus those of ``bits`` moved up by ``shift``.

    With a shift of 52, an integer in the lowest bits of ``bits`` is added to the binary exponent of ``value``.
    """

    def emit(builder: ir.IRBuilder, value: ir.Value, bits: ir.Value) -> ir.Value:
        moved = builder.shl(builder.bitcast(bits, _BITS), ir.Constant(_BITS, [shift] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(value, _BITS), moved), _VECTOR)

    return cast("Callable[[Lanes, Lanes], Lanes]", _binary(emit))


def has_look_up() -> bool:
    """Whether the processor that code is compiled for finds eight of sixteen numbers by one instruction."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return "+avx512f" in features.split(",")


def look_up(table: Sequence[float]) -> Callable[[Lanes], Lanes]:
    """A compiled function ``(bits)``: which of sixteen numbers the lowest four bits say; see :func:`has_look_up`."""
    halves = [ir.Constant(_VECTOR, list(table[:WIDTH])), ir.Constant(_VECTOR, list(table[WIDTH:]))]

    @intrinsic
    def apply(typing_context: Any, bits: nt.Type) -> tuple[Any, Emit]:
        def emit(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
            signature = ir.FunctionType(_VECTOR, [_VECTOR, _BITS, _VECTOR])
            name = "llvm.x86.avx512.vpermi2var.pd.512"
            permute = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call]
            return builder.call(permute, [halves[0], builder.bitcast(vector, _BITS), halves[1]])

        return _elementwise(emit, bits)

    return cast("Callable[[Lanes], Lanes]", apply)


def _zeros(rows: int) -> Callable[[], Lanes]:
    lanes = LanesType(rows)
    nothing = ir.Constant(ir.ArrayType(_VECTOR, rows), [ir.Constant(_VECTOR, [0.0] * WIDTH)] * rows)

    @intrinsic
    def zeros(typing_context: Any) -> tuple[Any, Emit]:
        return lanes(), lambda context, builder, signature, values: nothing

    return cast("Callable[[], Lanes]", zeros)


def _overload(operation: Callable[..., Any], instruction: str) -> None:
    """Give compiled code an arithmetic operator on lanes."""
    apply = _binary(lambda builder, a, b: getattr(builder, instruction)(a, b))

    @overload(operation, jit_options={"forceinline": True, "fastmath": False})
    def choose(a, b):  # type: ignore[no-untyped-def]  # numba compares its signature with the implementation's
        if isinstance(a, LanesType) or isinstance(b, LanesType):
            return lambda a, b: apply(a, b)  # noqa: PLW0108
        return None


_overload(operator.add, "fadd")
_overload(operator.sub, "fsub")
_overload(operator.mul, "fmul")
_overload(operator.truediv, "fdiv")

#: Zeros for one row and for :data:`FOUR` rows.
one_row = _zeros(1)
FOUR = 4
four_rows = _zeros(FOUR)

Operand = Lanes | float

#: ``a * b + c`` in one rounding where the processor can, in two where it cannot.
multiply_add = cast("Callable[[Operand, Operand, Operand], Lanes]", _multiply_add)
#: The second operand where the first is smaller; NaN stays.
at_least = cast("Callable[[Operand, Operand], Lanes]", _binary(_emit_at_least))
#: The second operand where the first is larger; NaN stays.
at_most = cast("Callable[[Operand, Operand], Lanes]", _binary(_emit_at_most))
#: ``load(like, array, index)``: eight consecutive numbers for each of the rows of ``like``, from ``array[index]`` on.
load = cast("Callable[[Lanes, Floats, int], Lanes]", _load)
#: ``spread(like, array, index)``: for each of the rows of ``like`` the number ``array[index + row]`` in all lanes.
spread = cast("Callable[[Lanes, Floats, int], Lanes]", _spread)
#: ``store(lanes, array, index)``: write what ``load`` reads.
store = cast("Callable[[Lanes, Floats, int], None]", _store)
#: ``store_totals(lanes, array, index)``: write each row's sum over its lanes to ``array[index + row]``.
store_totals = cast("Callable[[Lanes, Floats, int], None]", _store_totals)
#: ``prefetch(array, index)``: begin to bring the cache line of ``array[index]`` near; any index will do.
prefetch = cast("Callable[[Floats, int], None]", _prefetch)
