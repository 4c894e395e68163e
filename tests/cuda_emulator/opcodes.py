"""What each arithmetic instruction computes: opcode and modifiers to a function of numpy arrays.

Values of the type bf16 are float32 arrays, f16x2 and bf16x2 arrays of shape [threads, 2]; the
translator packs and unpacks them. All other types are the numpy types of the same name. Memory,
control flow and the instructions by which threads talk to each other are the translator's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arithmetic as ar
from .approximations import WorstCase, approximate_f32, approximate_f64, approximate_half
from .errors import UnsupportedInstructionError
from .ptx import SIZES, Instruction

Array = NDArray[Any]
Function = Callable[..., Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "pred": np.dtype(bool),
    "f16": np.dtype("f2"),
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
    **{f"{k}{b}": np.dtype(f"u{b // 8}") for k in "bu" for b in (8, 16, 32, 64)},
    **{f"s{b}": np.dtype(f"i{b // 8}") for b in (8, 16, 32, 64)},
    "bf16": np.dtype("u2"),
    "bf16x2": np.dtype("u4"),
    "f16x2": np.dtype("u4"),
}
ROUNDINGS = ("rn", "rz", "rm", "rp")


@dataclass(frozen=True)
class Operation:
    """Source types, result type, and the function, or a template like '{0} + {1}' for it."""

    sources: tuple[str, ...]
    result: str
    compute: str | Function


_TABLE: dict[str, Callable[[Instruction, WorstCase], Operation]] = {}


def _define(*names: str) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for name in names:
            _TABLE[name] = function
        return function

    return register


def operation(instruction: Instruction, worst_case: WorstCase) -> Operation:
    """The meaning of an arithmetic instruction; an error naming it if there is none."""
    maker = _TABLE.get(instruction.opcode)
    if maker is None:
        raise unsupported(instruction)
    return maker(instruction, worst_case)


def unsupported(instruction: Instruction) -> UnsupportedInstructionError:
    """The error for an instruction outside the table."""
    return UnsupportedInstructionError(
        f"unsupported PTX instruction {instruction.opcode}"
        f"{''.join('.' + m for m in instruction.modifiers)}: `{instruction.text}`"
    )


def _is_float(kind: str) -> bool:
    return kind.startswith(("f", "bf"))


def _clamped(function: Function, instruction: Instruction, kind: str) -> Function:
    """The function with operands and result flushed (.ftz), its result clamped (.sat, .relu)."""
    ftz, sat, relu = (instruction.has(m) for m in ("ftz", "sat", "relu"))
    if kind == "f16" or kind == "f16x2" or "bf16" in kind:
        ftz = False  # handled where the documentation wants it: subnormal halves are floats here
    if not (ftz or sat or relu):
        return function

    def compute(*operands: Array) -> Array:
        if ftz:
            operands = tuple(ar.flush(x) if x.dtype == np.float32 else x for x in operands)
        result = function(*operands)
        if ftz:
            result = ar.flush(result)
        if sat:
            result = ar.saturate(result)
        if relu:
            result = np.where(np.isnan(result), result, np.maximum(result, result.dtype.type(0)))
        return np.asarray(result)

    return compute


def _rounding(instruction: Instruction) -> str:
    mode = instruction.one_of(*ROUNDINGS)
    return "" if mode == "rn" else mode


def _float_operation(name: str, count: int, i: Instruction, nearest: str | Function) -> Operation:
    """An IEEE operation in the rounding mode of the instruction."""
    kind, mode = i.types[-1], _rounding(i)
    if mode and kind in ("f32", "f64"):
        directed = ar.directed_f32 if kind == "f32" else ar.directed_f64
        nearest = directed(name, mode)
    if isinstance(nearest, str):
        if not i.has("ftz", "sat", "relu"):
            return Operation((kind,) * count, kind, nearest)
        nearest = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name]
    return Operation((kind,) * count, kind, _clamped(nearest, i, kind))


@_define("add", "sub")
def _add(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    template = "{0} + {1}" if i.opcode == "add" else "{0} - {1}"
    if _is_float(kind):
        return _float_operation(i.opcode, 2, i, template)
    if i.has("sat"):
        return Operation(
            (kind, kind), kind, _saturating(np.add if i.opcode == "add" else np.subtract)
        )
    return Operation((_unsigned(kind),) * 2, _unsigned(kind), template)


def _saturating(function: Function) -> Function:
    def compute(a: Array, b: Array) -> Array:
        limits = np.iinfo(a.dtype)
        wide = function(a.astype(np.int64), b.astype(np.int64))
        clamped: Array = np.clip(wide, limits.min, limits.max).astype(a.dtype)
        return clamped

    return compute


def _unsigned(kind: str) -> str:
    """The type of the same width in which integer sums and products are computed: bits are bits."""
    return f"u{SIZES[kind] * 8}"


@_define("mul", "mul24")
def _mul(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    if _is_float(kind):
        return _float_operation("mul", 2, i, "{0} * {1}")
    return Operation((kind, kind), *_product(i, kind))


def _product(i: Instruction, kind: str) -> tuple[str, str | Function]:
    if i.has("wide"):
        wide = f"{kind[0]}{int(kind[1:]) * 2}"
        dtype = DTYPES[wide]
        return wide, lambda a, b: a.astype(dtype) * b.astype(dtype)
    if i.has("hi") and i.opcode in ("mul", "mad"):
        return kind, ar.multiply_high
    if i.opcode.endswith("24"):
        return kind, _product24(i.has("hi"))
    return kind, "{0} * {1}"


def _product24(high: bool) -> Function:
    def compute(a: Array, b: Array) -> Array:
        shift = np.int64(40)
        x, y = ((v.astype(np.int64) << shift) for v in (a, b))
        if a.dtype.kind == "u":
            x, y = ((v.view(np.uint64) >> np.uint64(40)).view(np.int64) for v in (x, y))
        else:
            x, y = x >> shift, y >> shift
        return ((x * y) >> np.int64(16 if high else 0)).astype(a.dtype)

    return compute


@_define("mad", "mad24")
def _mad(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    if _is_float(kind):
        return _float_operation("fma", 3, i, _FMA[kind])
    result, product = _product(i, kind)
    if isinstance(product, str):
        return Operation((kind, kind, kind), kind, "{0} * {1} + {2}")
    return Operation((kind, kind, result), result, lambda a, b, c: product(a, b) + c)


_FMA: dict[str, Function] = {
    "f32": ar.fma_f32,
    "f64": ar.fma_f64,
    "f16": ar.fma_f16,
    "f16x2": ar.fma_f16,
    "bf16": ar.fma_bf16,
    "bf16x2": ar.fma_bf16,
}


@_define("fma")
def _fma(i: Instruction, _: WorstCase) -> Operation:
    return _float_operation("fma", 3, i, _FMA[i.types[-1]])


@_define("div")
def _div(i: Instruction, worst_case: WorstCase) -> Operation:
    kind = i.types[-1]
    if not _is_float(kind):
        return Operation((kind, kind), kind, ar.divide)
    if i.has("approx", "full"):
        name = "div" if i.has("approx") else "div_full"
        return Operation((kind, kind), kind, approximate_f32(name, i.has("ftz"), worst_case))
    return _float_operation("div", 2, i, "{0} / {1}")


@_define("rem")
def _rem(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    return Operation((kind, kind), kind, ar.remainder)


@_define("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def _function(i: Instruction, worst_case: WorstCase) -> Operation:
    kind, name = i.types[-1], i.opcode
    if name in ("rcp", "sqrt") and not i.has("approx"):
        nearest = np.sqrt if name == "sqrt" else (lambda a: a.dtype.type(1) / a)
        return _float_operation(name, 1, i, nearest)
    if kind == "f32":
        return Operation((kind,), kind, approximate_f32(name, i.has("ftz"), worst_case))
    if kind == "f64":
        return Operation((kind,), kind, approximate_f64(name, i.has("ftz"), worst_case))
    return Operation((kind,), kind, approximate_half(name, kind.removesuffix("x2"), worst_case))


@_define("neg")
def _neg(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    if _is_float(kind):  # a sign bit, NaN included
        width = SIZES[kind] * 8
        sign = 0x80008000 if kind.endswith("x2") else 1 << (width - 1)
        constant = DTYPES[f"u{width}"].type(sign)
        if i.has("ftz") and kind == "f32":
            return Operation((kind,), kind, lambda a: -ar.flush(a))
        return Operation((f"u{width}",), f"u{width}", lambda a: a ^ constant)
    return Operation((_unsigned(kind),), _unsigned(kind), "-{0}")


@_define("abs")
def _abs(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    if _is_float(kind):
        width = SIZES[kind] * 8
        mask = 0x7FFF7FFF if kind.endswith("x2") else (1 << (width - 1)) - 1
        constant = DTYPES[f"u{width}"].type(mask)
        if i.has("ftz") and kind == "f32":
            return Operation((kind,), kind, lambda a: np.abs(ar.flush(a)))
        return Operation((f"u{width}",), f"u{width}", lambda a: a & constant)
    return Operation((kind,), kind, np.abs)


@_define("min", "max")
def _minmax(i: Instruction, _: WorstCase) -> Operation:
    kind, least = i.types[-1], i.opcode == "min"
    if not _is_float(kind):
        function = np.minimum if least else np.maximum
        if i.has("relu"):
            return Operation((kind, kind), kind, lambda a, b: np.maximum(function(a, b), 0))
        return Operation((kind, kind), kind, function)
    choose: Function = ar.float_minimum if least else ar.float_maximum
    if i.has("NaN"):
        choose = _with_nan(choose)
    if i.has("xorsign"):
        choose = _with_xorsign(choose)
    return Operation((kind, kind), kind, _clamped(choose, i, kind))


def _with_nan(function: Function) -> Function:
    """The function, and where one is NaN the device's own NaN: all lower bits set."""

    def compute(a: Array, b: Array) -> Array:
        nan = np.isnan(a) | np.isnan(b)
        ours = np.array(np.iinfo(f"i{a.itemsize}").max, f"i{a.itemsize}").view(a.dtype)
        result: Array = np.where(nan, ours, function(a, b))
        return result

    return compute


def _with_xorsign(function: Function) -> Function:
    def compute(a: Array, b: Array) -> Array:
        negative = np.signbit(a) ^ np.signbit(b)
        size = function(np.abs(a), np.abs(b))
        result: Array = np.where(negative, -size, size)
        return result

    return compute


@_define("copysign")
def _copysign(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    return Operation((kind, kind), kind, lambda a, b: np.copysign(b, a))


@_define("and", "or", "xor")
def _logic(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    sign = {"and": "&", "or": "|", "xor": "^"}[i.opcode]
    return Operation((kind, kind), kind, f"{{0}} {sign} {{1}}")


@_define("not")
def _not(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    return Operation((kind,), kind, "~{0}")


@_define("cnot")
def _cnot(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    return Operation((kind,), kind, lambda a: (a == 0).astype(a.dtype))


@_define("lop3")
def _lop3(i: Instruction, _: WorstCase) -> Operation:
    table = int(i.operands[4], 0)

    def compute(a: Array, b: Array, c: Array) -> Array:
        result = np.zeros(1, np.uint32)
        for bit in range(8):
            if table >> bit & 1:
                term = (a if bit & 4 else ~a) & (b if bit & 2 else ~b) & (c if bit & 1 else ~c)
                result = result | term
        return result

    return Operation(("b32",) * 3, "b32", compute)


@_define("shl", "shr")
def _shift(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    width = SIZES[kind] * 8
    left = i.opcode == "shl"

    def compute(a: Array, b: Array) -> Array:
        shift = np.minimum(b, np.uint32(width - 1)).astype(a.dtype)
        result: Array = a << shift if left else a >> shift
        beyond = b >= width
        if not beyond.any() or (not left and a.dtype.kind == "i"):
            return result
        kept: Array = np.where(beyond, a.dtype.type(0), result)
        return kept

    amount = i.operands[2]
    if amount.isdigit() and int(amount) < width:
        constant = DTYPES[kind].type(int(amount))
        if left:
            return Operation((kind,), kind, lambda a: a << constant)
        return Operation((kind,), kind, lambda a: a >> constant)
    return Operation((kind, "u32"), kind, compute)


@_define("shf")
def _funnel(i: Instruction, _: WorstCase) -> Operation:
    left, clamp = i.has("l"), i.has("clamp")

    def compute(a: Array, b: Array, c: Array) -> Array:
        shift = np.minimum(c, np.uint32(32)) if clamp else c & np.uint32(31)
        both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
        wide = shift.astype(np.uint64)
        if left:
            return ((both << wide) >> np.uint64(32)).astype(np.uint32)
        return (both >> wide).astype(np.uint32)

    return Operation(("u32",) * 3, "u32", compute)


@_define("bfe")
def _bfe(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    width = SIZES[kind] * 8

    def compute(a: Array, position: Array, length: Array) -> Array:
        p, n = ((x & np.uint32(255)).astype(np.int64) for x in (position, length))
        if a.dtype.kind == "i":
            # move the field to the top, then down again with its sign; past the end lies the sign
            top = np.minimum(p + n, width)
            up = (width - top).astype(a.dtype)
            down = np.minimum(width - top + p, width - 1).astype(a.dtype)
            field = (a << up) >> down
            outside = np.where(a < 0, a.dtype.type(-1), a.dtype.type(0))
            field = np.where(p >= width, outside, field)
        else:
            field = np.where(
                p < width, a >> np.minimum(p, width - 1).astype(a.dtype), a.dtype.type(0)
            )
            ones = ~np.zeros(1, a.dtype)
            mask = ones >> (width - np.clip(n, 1, width)).astype(a.dtype)
            field = field & mask
        result: Array = np.where(n == 0, a.dtype.type(0), field)
        return result

    return Operation((kind, "u32", "u32"), kind, compute)


@_define("bfi")
def _bfi(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    width = SIZES[kind] * 8

    def compute(a: Array, b: Array, position: Array, length: Array) -> Array:
        p, n = ((x & np.uint32(255)).astype(np.int64) for x in (position, length))
        ones = ~np.zeros(1, a.dtype)
        field = np.where(
            n > 0, ones >> (width - np.clip(n, 1, width)).astype(a.dtype), a.dtype.type(0)
        )
        shift = np.minimum(p, width - 1).astype(a.dtype)
        mask = np.where(p < width, field << shift, a.dtype.type(0))
        result: Array = (b & ~mask) | ((a << shift) & mask)
        return result

    return Operation((kind, kind, "u32", "u32"), kind, compute)


@_define("prmt")
def _prmt(i: Instruction, _: WorstCase) -> Operation:
    mode = i.modifiers[1] if len(i.modifiers) > 1 else ""

    def select(selector: Array, place: int) -> Array:
        if not mode:
            return (selector >> np.uint32(4 * place)) & np.uint32(15)
        s = (selector & np.uint32(3)).astype(np.int64)
        choice = {
            "f4e": s + place,
            "b4e": (s - place) % 8,
            "rc8": s,
            "ecl": np.maximum(s, place),
            "ecr": np.minimum(s, place),
            "rc16": (s & 1) * 2 + (place & 1),
        }[mode]
        return choice.astype(np.uint32)

    def compute(a: Array, b: Array, selector: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
        result = np.zeros(1, np.uint32)
        for place in range(4):
            s = select(selector, place)
            byte = (both >> ((s & np.uint32(7)) << np.uint32(3)).astype(np.uint64)).astype(
                np.uint32
            )
            byte = byte & np.uint32(255)
            sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
            byte = np.where(s & np.uint32(8), sign, byte)
            result = result | (byte << np.uint32(8 * place))
        return result

    return Operation(("u32",) * 3, "u32", compute)


@_define("popc")
def _popc(i: Instruction, _: WorstCase) -> Operation:
    return Operation((i.types[-1],), "u32", lambda a: np.bitwise_count(a).astype(np.uint32))


def _highest_bit(a: Array) -> Array:
    """Index of the highest set bit, -1 for 0."""
    result = np.full(a.shape, -1, np.int64)
    shift = a.dtype.itemsize * 4
    rest = a
    place = np.zeros(a.shape, np.int64)
    while shift:
        high = rest >> a.dtype.type(shift)
        big = high != 0
        rest = np.where(big, high, rest)
        place = place + big * shift
        shift //= 2
    return np.where(a != 0, place, result)


@_define("clz")
def _clz(i: Instruction, _: WorstCase) -> Operation:
    width = SIZES[i.types[-1]] * 8
    return Operation(
        (i.types[-1],), "u32", lambda a: (width - 1 - _highest_bit(a)).astype(np.uint32)
    )


@_define("bfind")
def _bfind(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    width = SIZES[kind] * 8
    amount = i.has("shiftamt")

    def compute(a: Array) -> Array:
        bits = np.where(a < 0, ~a, a).view(DTYPES[_unsigned(kind)]) if kind[0] == "s" else a
        found = _highest_bit(bits)
        return np.where(found < 0, -1, width - 1 - found if amount else found).astype(np.uint32)

    return Operation((kind,), "u32", compute)


@_define("brev")
def _brev(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    size = SIZES[kind]

    def compute(a: Array) -> Array:
        data = np.ascontiguousarray(a).view(np.uint8).reshape(-1, size)
        bits = np.packbits(
            np.unpackbits(data, axis=1, bitorder="little")[:, ::-1], axis=1, bitorder="little"
        )
        return np.ascontiguousarray(bits).view(a.dtype).reshape(a.shape)

    return Operation((kind,), kind, compute)


@_define("bmsk")
def _bmsk(i: Instruction, _: WorstCase) -> Operation:
    clamp = i.has("clamp")

    def compute(a: Array, b: Array) -> Array:
        start, length = a.astype(np.uint64), b.astype(np.uint64)
        if clamp:
            start, length = np.minimum(start, np.uint64(32)), np.minimum(length, np.uint64(32))
        else:
            start, length = start & np.uint64(31), length & np.uint64(31)
        one = np.uint64(1)
        return (((one << length) - one) << start).astype(np.uint32)

    return Operation(("u32", "u32"), "u32", compute)


@_define("sad")
def _sad(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    return Operation((kind,) * 3, kind, lambda a, b, c: c + np.where(a < b, b - a, a - b))


@_define("dp4a")
def _dp4a(i: Instruction, _: WorstCase) -> Operation:
    kinds = i.types

    def compute(a: Array, b: Array, c: Array) -> Array:
        total = c.astype(np.int64)
        for byte in range(4):
            x, y = (
                (v >> np.uint32(8 * byte))
                .astype(np.uint8)
                .astype(np.int8 if k[0] == "s" else np.uint8)
                for v, k in zip((a, b), kinds, strict=True)
            )
            total = total + x.astype(np.int64) * y.astype(np.int64)
        return total.astype(np.uint32)

    return Operation(("u32",) * 3, "u32", compute)


_COMPARISONS: dict[str, np.ufunc] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_SYMBOLS = {
    "eq": "==",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}


def comparison(name: str, kind: str) -> str | Function:
    """A comparison; on floats, NaN makes the plain ones false and those that end in u true."""
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if not _is_float(kind):
        return "{0} != {1}" if name == "ne" else f"{{0}} {_SYMBOLS[name]} {{1}}"
    if name in _SYMBOLS:
        return f"{{0}} {_SYMBOLS[name]} {{1}}"
    function = _COMPARISONS[name[:2]]
    if name == "ne":
        return lambda a, b: function(a, b) & ~(np.isnan(a) | np.isnan(b))
    return lambda a, b: function(a, b) | np.isnan(a) | np.isnan(b)


@_define("selp")
def _selp(i: Instruction, _: WorstCase) -> Operation:
    kind = _unsigned(i.types[-1]) if i.types[-1] not in ("f32", "f64") else i.types[-1]
    return Operation((kind, kind, "pred"), kind, "where({2}, {0}, {1})")


@_define("slct")
def _slct(i: Instruction, _: WorstCase) -> Operation:
    kind, condition = i.types
    return Operation((kind, kind, condition), kind, lambda a, b, c: np.where(c >= 0, a, b))


@_define("testp")
def _testp(i: Instruction, _: WorstCase) -> Operation:
    kind = i.types[-1]
    tiny = 2.0**-126 if kind == "f32" else 2.0**-1022
    functions: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= tiny),
        "subnormal": lambda a: (np.abs(a) < tiny) & (a != 0),
    }
    return Operation((kind,), "pred", functions[i.modifiers[0]])


_INTEGRAL: dict[str, Function] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@_define("cvt")
def _cvt(i: Instruction, _: WorstCase) -> Operation:
    if i.has("pack"):
        return _cvt_pack(i)
    if len(i.types) != 2:
        raise unsupported(i)
    to, source = i.types
    integral = i.one_of(*_INTEGRAL)
    mode = i.one_of("rz", "rm", "rp")
    if to in ("f16x2", "bf16x2") and source == "f32":
        one = _to_half(to.removesuffix("x2"), mode, i)
        return Operation(
            ("f32", "f32"), to, lambda a, b: np.stack(np.broadcast_arrays(one(b), one(a)), -1)
        )
    if _is_float(source) and _is_float(to):
        return Operation(
            (source,), to, _clamped(_float_to_float(to, source, integral, mode, i), i, to)
        )
    if _is_float(source):
        rounding = _INTEGRAL[integral or "rzi"]
        dtype = DTYPES[to]
        ftz = i.has("ftz")

        def to_integer(a: Array) -> Array:
            return ar.float_to_integer(
                rounding(ar.flush(a) if ftz and a.dtype == np.float32 else a), dtype
            )

        return Operation((source,), to, to_integer)
    if _is_float(to):
        return Operation((source,), to, _integer_to_float(to, mode, i))
    dtype = DTYPES[to]
    if i.has("sat"):
        limits = np.iinfo(dtype)

        def saturated(a: Array) -> Array:
            low = max(int(np.iinfo(a.dtype).min), int(limits.min))
            high = min(int(np.iinfo(a.dtype).max), int(limits.max))
            return np.clip(a, low, high).astype(dtype)

        return Operation((source,), to, saturated)
    return Operation((source,), to, lambda a: a.astype(dtype))


def _to_half(kind: str, mode: str, i: Instruction) -> Function:
    """A float or double to float16, or to a float that holds a bfloat16, rounded once."""
    if i.has("satfinite") or mode in ("rm", "rp"):
        raise unsupported(i)
    relu = i.has("relu")

    def compute(a: Array) -> Array:
        if relu:
            a = np.where(np.isnan(a), a, np.maximum(a, a.dtype.type(0)))
        if kind == "bf16":
            if a.dtype == np.float64:
                a = ar.double_to_float_odd(a)
            a = a.astype(np.float32)
            if mode == "rz":
                a = np.where(
                    np.isnan(a), a, (a.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
                )
            return a
        result = a.astype(np.float16)
        if mode == "rz":
            over = np.abs(result.astype(np.float64)) > np.abs(a)
            result = np.where(over, np.nextafter(result, np.float16(0)), result)
        return result

    return compute


def _float_to_float(to: str, source: str, integral: str, mode: str, i: Instruction) -> Function:
    rounding = _INTEGRAL.get(integral)
    if rounding is not None:
        dtype = np.dtype(np.float32) if to == "bf16" else DTYPES[to]
        return lambda a: rounding(a).astype(dtype)
    if to in ("f16", "bf16") and source != to:
        return _to_half(to, mode, i)
    if to == "f32" and source == "f64" and mode:
        return lambda a: ar.round_f32(a, np.zeros(1), mode)
    dtype = np.dtype(np.float32) if to == "bf16" else DTYPES[to]
    return lambda a: a.astype(dtype)


def _integer_to_float(to: str, mode: str, i: Instruction) -> Function:
    if not mode:
        if to == "bf16":
            return lambda a: ar.double_to_float_odd(a.astype(np.float64))
        if to == "f16":
            return lambda a: a.astype(np.float64).astype(np.float16)
        dtype = DTYPES[to]
        return lambda a: a.astype(dtype)
    if to not in ("f32", "f64"):
        raise unsupported(i)

    def directed(a: Array) -> Array:
        # two halves are exact doubles, and their sum's error is exact
        high = (a >> a.dtype.type(32 if a.dtype.itemsize == 8 else 16)).astype(np.float64)
        low = (a & a.dtype.type(0xFFFFFFFF if a.dtype.itemsize == 8 else 0xFFFF)).astype(np.float64)
        value, error = ar.two_sum(high * (2.0**32 if a.dtype.itemsize == 8 else 2.0**16), low)
        if to == "f32":
            return ar.round_f32(value, error, mode)
        return ar.directed_f64("add", mode)(value, error)

    return directed


def _cvt_pack(i: Instruction) -> Operation:
    if i.types[0] not in ("s16", "u16") or len(i.operands) != 3:
        raise unsupported(i)
    dtype = DTYPES[i.types[0]]
    limits = np.iinfo(dtype)

    def compute(a: Array, b: Array) -> Array:
        high, low = (
            np.clip(x.view(np.int32), limits.min, limits.max)
            .astype(dtype)
            .view(np.uint16)
            .astype(np.uint32)
            for x in (a, b)
        )
        return (high << np.uint32(16)) | low

    return Operation(("u32", "u32"), "u32", compute)
