"""Each arithmetic instruction against Python integers and fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_emulator import Device, UnsupportedInstructionError

from .snippets import execute

Array = NDArray[Any]
COUNT = 500
# infinities and NaN are among the operands
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
KINDS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def integers(bits: int, seed: int) -> Array:
    """Random words of all lengths, with the corners of the type."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << bits, COUNT, dtype=np.uint64, endpoint=False)
    words >>= rng.integers(0, bits, COUNT, dtype=np.uint64)
    top = 1 << (bits - 1)
    corners = [0, 1, 2, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2, 31, 32, 33, 63, 64]
    pairs = rng.permutation(np.array(corners * 8, np.uint64))
    words[: len(pairs)] = pairs
    return words.astype(f"u{bits // 8}")


def floats(kind: str, seed: int) -> Array:
    """Random numbers of all magnitudes, close ones, and the special values."""
    dtype: np.dtype[Any] = np.dtype(KINDS[kind])
    limits: Any = np.finfo(dtype)
    bits = dtype.itemsize * 8
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << bits, COUNT, dtype=np.uint64, endpoint=False).astype(
        f"u{bits // 8}"
    )
    values = words.view(dtype).copy()
    values[COUNT // 2 :] = rng.normal(size=COUNT - COUNT // 2).astype(dtype)
    tiny = limits.smallest_subnormal
    special = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, 3.5, -2.5, np.inf, -np.inf, np.nan, tiny, -tiny]
    special += [limits.max, limits.tiny, -limits.max]
    mixed = rng.permutation(np.array(special * 6, dtype))
    values[: len(mixed)] = mixed
    return values


def signed(word: int, bits: int) -> int:
    """The signed value of a word."""
    return word - (1 << bits) if word >> (bits - 1) else word


def rounded(value: Fraction, kind: str, mode: str = "rn") -> float:
    """A real number rounded once to a format, by definition."""
    precision, least = {"f16": (11, -24), "bf16": (8, -133), "f32": (24, -149), "f64": (53, -1074)}[
        kind
    ]
    most = {"f16": 16, "bf16": 128, "f32": 128, "f64": 1024}[kind]
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - precision + 1, least)
    quotient, rest = divmod(size, unit)
    up = {
        "rn": rest * 2 > unit or (rest * 2 == unit and quotient % 2 == 1),
        "rz": False,
        "rm": value < 0 and rest > 0,
        "rp": value > 0 and rest > 0,
    }[mode]
    result = (quotient + up) * unit
    if result >= Fraction(2) ** most:
        outwards = mode == "rn" or ((mode == "rp") == (value > 0) and mode != "rz")
        largest = (Fraction(2) - Fraction(2) ** (1 - precision)) * Fraction(2) ** (most - 1)
        result_float = math.inf if outwards else float(largest)
    else:
        result_float = float(result)
    return -result_float if value < 0 else result_float


def same(found: Array, wanted: Array) -> None:
    """Bit for bit, except that all NaN are one."""
    if found.dtype.kind == "f":
        word = f"u{found.dtype.itemsize}"
        equal = (found.view(word) == wanted.view(word)) | (np.isnan(found) & np.isnan(wanted))
    else:
        equal = found == wanted
    bad = np.flatnonzero(~equal)
    assert bad.size == 0, [(int(i), found[i], wanted[i]) for i in bad[:5]]


IntegerRule = Callable[..., int]


def _divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _bfe(a: int, p: int, n: int, bits: int, is_signed: bool) -> int:
    p, n = p & 255, n & 255
    if n == 0:
        return 0
    if is_signed:
        a = signed(a, bits)
        field = a >> min(p, bits - 1 if a < 0 else bits)
        width = min(n, bits - p) if p < bits else 1
        if p >= bits:
            return -1 if a < 0 else 0
        field &= (1 << width) - 1
        return signed(field, width) if width else 0
    return (a >> p) & ((1 << n) - 1)


def _bfi(a: int, b: int, p: int, n: int, bits: int) -> int:
    p, n = p & 255, n & 255
    mask = (((1 << n) - 1) << p) & ((1 << bits) - 1)
    return (b & ~mask) | ((a << p) & mask)


def _prmt(a: int, b: int, s: int, mode: str = "") -> int:
    source = (b << 32 | a).to_bytes(8, "little")
    result = 0
    for place in range(4):
        if not mode:
            nibble = s >> (4 * place) & 15
        else:
            k = s & 3
            nibble = {
                "f4e": k + place,
                "b4e": (k - place) % 8,
                "rc8": k,
                "ecl": max(k, place),
                "ecr": min(k, place),
                "rc16": (k & 1) * 2 + (place & 1),
            }[mode]
        byte = source[nibble & 7]
        if nibble & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << (8 * place)
    return result


S, U = True, False
# instruction, operand bits, result bits, signed operands, the rule on Python integers
INTEGER_CASES: list[tuple[str, tuple[int, ...], int, bool, IntegerRule]] = []
for n in (16, 32, 64):
    INTEGER_CASES += [
        (f"add.s{n}", (n, n), n, S, lambda a, b: a + b),
        (f"sub.u{n}", (n, n), n, U, lambda a, b: a - b),
        (f"mul.lo.s{n}", (n, n), n, S, lambda a, b: a * b),
        (f"mul.hi.s{n}", (n, n), n, S, lambda a, b, n=n: a * b >> n),
        (f"mul.hi.u{n}", (n, n), n, U, lambda a, b, n=n: a * b >> n),
        (f"mad.lo.s{n}", (n, n, n), n, S, lambda a, b, c: a * b + c),
        (f"mad.hi.u{n}", (n, n, n), n, U, lambda a, b, c, n=n: (a * b >> n) + c),
        (f"div.s{n}", (n, n), n, S, lambda a, b: _divide(a, b) if b else -1),
        (f"div.u{n}", (n, n), n, U, lambda a, b: a // b if b else -1),
        (f"rem.s{n}", (n, n), n, S, lambda a, b: a - _divide(a, b) * b if b else a),
        (f"rem.u{n}", (n, n), n, U, lambda a, b: a % b if b else a),
        (f"min.s{n}", (n, n), n, S, min),
        (f"max.u{n}", (n, n), n, U, max),
        (f"abs.s{n}", (n,), n, S, abs),
        (f"neg.s{n}", (n,), n, S, lambda a: -a),
        (f"sad.s{n}", (n, n, n), n, S, lambda a, b, c: c + abs(a - b)),
        (f"sad.u{n}", (n, n, n), n, U, lambda a, b, c: c + abs(a - b)),
        (f"and.b{n}", (n, n), n, U, lambda a, b: a & b),
        (f"or.b{n}", (n, n), n, U, lambda a, b: a | b),
        (f"xor.b{n}", (n, n), n, U, lambda a, b: a ^ b),
        (f"not.b{n}", (n,), n, U, lambda a: ~a),
        (f"cnot.b{n}", (n,), n, U, lambda a: int(a == 0)),
        (f"shl.b{n}", (n, 32), n, U, lambda a, b, n=n: a << min(b, n)),
        (f"shr.u{n}", (n, 32), n, U, lambda a, b, n=n: a >> min(b, n)),
        (f"shr.s{n}", (n, 32), n, S, lambda a, b, n=n: a >> min(b & 0xFFFFFFFF, n)),
    ]
for n in (16, 32):
    INTEGER_CASES += [
        (f"mul.wide.s{n}", (n, n), 2 * n, S, lambda a, b: a * b),
        (f"mul.wide.u{n}", (n, n), 2 * n, U, lambda a, b: a * b),
        (f"mad.wide.u{n}", (n, n, 2 * n), 2 * n, U, lambda a, b, c: a * b + c),
        (f"mad.wide.s{n}", (n, n, 2 * n), 2 * n, S, lambda a, b, c: a * b + c),
    ]
for n in (32, 64):
    INTEGER_CASES += [
        (f"popc.b{n}", (n,), 32, U, lambda a: a.bit_count()),
        (f"clz.b{n}", (n,), 32, U, lambda a, n=n: n - a.bit_length()),
        (f"bfind.u{n}", (n,), 32, U, lambda a: a.bit_length() - 1),
        (f"bfind.s{n}", (n,), 32, S, lambda a: (~a if a < 0 else a).bit_length() - 1),
        (f"bfind.shiftamt.u{n}", (n,), 32, U, lambda a, n=n: n - a.bit_length() if a else -1),
        (f"brev.b{n}", (n,), n, U, lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2)),
        (f"bfe.u{n}", (n, 32, 32), n, U, lambda a, p, c, n=n: _bfe(a, p, c, n, False)),
        (f"bfe.s{n}", (n, 32, 32), n, U, lambda a, p, c, n=n: _bfe(a, p, c, n, True)),
        (f"bfi.b{n}", (n, n, 32, 32), n, U, lambda a, b, p, c, n=n: _bfi(a, b, p, c, n)),
    ]
INTEGER_CASES += [
    ("add.sat.s32", (32, 32), 32, S, lambda a, b: max(-(2**31), min(2**31 - 1, a + b))),
    ("sub.sat.s32", (32, 32), 32, S, lambda a, b: max(-(2**31), min(2**31 - 1, a - b))),
    ("prmt.b32", (32, 32, 32), 32, U, _prmt),
    *[
        (f"prmt.b32.{m}", (32, 32, 32), 32, U, lambda a, b, s, m=m: _prmt(a, b, s, m))
        for m in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")
    ],
    ("shf.l.wrap.b32", (32, 32, 32), 32, U, lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    ("shf.r.wrap.b32", (32, 32, 32), 32, U, lambda a, b, c: (b << 32 | a) >> (c & 31)),
    ("shf.l.clamp.b32", (32, 32, 32), 32, U, lambda a, b, c: (b << 32 | a) << min(c, 32) >> 32),
    ("shf.r.clamp.b32", (32, 32, 32), 32, U, lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("bmsk.clamp.b32", (32, 32), 32, U, lambda a, b: ((1 << min(b, 32)) - 1) << min(a, 32)),
    ("bmsk.wrap.b32", (32, 32), 32, U, lambda a, b: ((1 << (b & 31)) - 1) << (a & 31)),
    (
        "dp4a.s32.u32",
        (32, 32, 32),
        32,
        U,
        lambda a, b, c: c + sum(signed(a >> 8 * i & 255, 8) * (b >> 8 * i & 255) for i in range(4)),
    ),
    ("mul24.lo.u32", (32, 32), 32, U, lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    ("mul24.hi.u32", (32, 32), 32, U, lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 16),
    ("cvt.u64.u32", (32,), 64, U, lambda a: a),
    ("cvt.s64.s32", (32,), 64, S, lambda a: a),
    ("cvt.u32.u64", (64,), 32, U, lambda a: a),
    ("cvt.s32.s16", (16,), 32, S, lambda a: a),
    ("cvt.u16.u32", (32,), 16, U, lambda a: a),
    ("cvt.sat.s16.s32", (32,), 16, S, lambda a: max(-(2**15), min(2**15 - 1, a))),
    ("cvt.sat.u32.s32", (32,), 32, S, lambda a: max(0, a)),
    ("slct.u32.s32", (32, 32, 32), 32, U, lambda a, b, c: a if signed(c, 32) >= 0 else b),
]


@pytest.mark.parametrize("case", INTEGER_CASES, ids=lambda c: c[0])
def test_integer_instruction(case: tuple[str, tuple[int, ...], int, bool, IntegerRule]) -> None:
    code, widths, result_bits, is_signed, rule = case
    operands = [integers(bits, seed) for seed, bits in enumerate(widths)]
    names = ", ".join(f"%{letter}" for letter in "abcd"[: len(widths)])
    inputs = [(f"b{bits}", o) for bits, o in zip(widths, operands, strict=True)]
    (found,) = execute(f"{code} %x, {names};", inputs, [f"b{result_bits}"])
    wanted = []
    for row in zip(*(o.tolist() for o in operands), strict=True):
        values = [signed(v, w) if is_signed else v for v, w in zip(row, widths, strict=True)]
        wanted.append(rule(*values) % (1 << result_bits))
    same(found, np.array(wanted, found.dtype))


@pytest.mark.parametrize("table", [0x80, 0xE8, 0x96, 0x1D])
def test_lop3(table: int) -> None:
    a, b, c = (integers(32, seed) for seed in range(3))
    inputs = [("b32", x) for x in (a, b, c)]
    (found,) = execute(f"lop3.b32 %x, %a, %b, %c, {table};", inputs, ["b32"])
    wanted = np.zeros(COUNT, np.uint32)
    for bit in range(32):
        index = (a >> bit & 1) * 4 + (b >> bit & 1) * 2 + (c >> bit & 1)
        wanted |= (((table >> index) & 1) << bit).astype(np.uint32)
    same(found, wanted)


def test_carry_chain_adds_and_subtracts_128_bits() -> None:
    words = [integers(64, seed) for seed in range(4)]
    inputs = [("b64", w) for w in words]
    total = execute("add.cc.u64 %x, %a, %c; addc.u64 %y, %b, %d;", inputs, ["b64", "b64"])
    less = execute("sub.cc.u64 %x, %a, %c; subc.u64 %y, %b, %d;", inputs, ["b64", "b64"])
    for i, (a, b, c, d) in enumerate(zip(*(w.tolist() for w in words), strict=True)):
        first, second = b << 64 | a, d << 64 | c
        assert int(total[1][i]) << 64 | int(total[0][i]) == (first + second) % (1 << 128)
        assert int(less[1][i]) << 64 | int(less[0][i]) == (first - second) % (1 << 128)


def test_carry_of_multiply_add() -> None:
    a, b = integers(32, 0), integers(32, 1)
    code = "mul.lo.u32 %x, %a, %b; mad.lo.cc.u32 %x, %a, %b, %a; madc.hi.u32 %y, %a, %b, 0;"
    low, high = execute(code, [("b32", a), ("b32", b)], ["b32", "b32"])
    for i in range(COUNT):
        assert int(high[i]) << 32 | int(low[i]) == int(a[i]) * int(b[i]) + int(a[i])


# ---------------------------------------------------------------------- floating point


def exact(name: str, x: tuple[float, ...], kind: str, mode: str) -> float:
    """An IEEE operation by definition: a real result, rounded once."""
    if any(math.isnan(v) for v in x):
        return math.nan
    if all(math.isfinite(v) for v in x):
        f = [Fraction(v) for v in x]
        zero = -0.0 if mode == "rm" else 0.0
        if name in ("add", "sub"):
            second = x[1] if name == "add" else -x[1]
            total = f[0] + Fraction(second)
            if total == 0:
                return (
                    x[0]
                    if x[0] == 0 and math.copysign(1, x[0]) == math.copysign(1, second)
                    else zero
                )
            return rounded(total, kind, mode)
        if name == "mul":
            return math.copysign(
                rounded(f[0] * f[1], kind, mode), math.copysign(1, x[0]) * math.copysign(1, x[1])
            )
        if name == "fma":
            total = f[0] * f[1] + f[2]
            sign = math.copysign(1, x[0]) * math.copysign(1, x[1])
            if total == 0:
                same_sign = f[0] * f[1] == 0 and x[2] == 0 and sign == math.copysign(1, x[2])
                return x[2] if same_sign else zero
            return rounded(total, kind, mode)
        if name == "div" and x[1] != 0:
            sign = math.copysign(1, x[0]) * math.copysign(1, x[1])
            return math.copysign(rounded(f[0] / f[1], kind, mode), sign)
        if name == "rcp" and x[0] != 0:
            return rounded(1 / f[0], kind, mode)
        if name == "sqrt" and x[0] > 0:
            scale = 4**600
            root = Fraction(math.isqrt(int(f[0] * scale * scale)), scale)
            # isqrt truncates: a little more than the root's floor, unless the root is exact
            if root * root != f[0]:
                root += Fraction(1, 3 * scale)
            return rounded(root, kind, mode)
    with np.errstate(all="ignore"):
        y = [np.float64(v) for v in x]
        if name == "add":
            return float(y[0] + y[1])
        if name == "sub":
            return float(y[0] - y[1])
        if name == "mul":
            return float(y[0] * y[1])
        if name == "fma":
            product = y[0] * y[1]
            finite_product = math.isfinite(x[0]) and math.isfinite(x[1])
            return float(y[2] if finite_product else product + y[2])
        if name == "div":
            return float(y[0] / y[1])
        if name == "rcp":
            return float(1 / y[0])
        return float(np.sqrt(y[0]))


ARITY = {"add": 2, "sub": 2, "mul": 2, "fma": 3, "div": 2, "rcp": 1, "sqrt": 1}
FLOAT_CASES = [
    (name, kind, mode)
    for kind in ("f32", "f64")
    for name in ARITY
    for mode in ("rn", "rz", "rm", "rp")
] + [(name, "f16", "rn") for name in ("add", "sub", "mul", "fma")]


@pytest.mark.parametrize(("name", "kind", "mode"), FLOAT_CASES)
def test_ieee_instruction(name: str, kind: str, mode: str) -> None:
    operands = [floats(kind, seed) for seed in range(ARITY[name])]
    if name == "fma":  # products that nearly cancel, and sums that nearly tie
        third = operands[2]
        with np.errstate(all="ignore"):
            product = -(operands[0] * operands[1])
        third[COUNT // 2 :: 2] = product[COUNT // 2 :: 2]
        third[COUNT // 2 + 1 :: 4] = (product * np.dtype(third.dtype).type(2.0**-9))[
            COUNT // 2 + 1 :: 4
        ]
    names = ", ".join(f"%{letter}" for letter in "abc"[: ARITY[name]])
    (found,) = execute(f"{name}.{mode}.{kind} %x, {names};", [(kind, o) for o in operands], [kind])
    rows = zip(*(o.astype(np.float64).tolist() for o in operands), strict=True)
    with np.errstate(over="ignore"):
        wanted = np.array([exact(name, row, kind, mode) for row in rows]).astype(KINDS[kind])
    same(found.view(KINDS[kind]), wanted)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_packed_half_instruction(name: str) -> None:
    operands = [np.stack([floats("f16", s), floats("f16", s + 9)], -1) for s in range(ARITY[name])]
    names = ", ".join(f"%{letter}" for letter in "abc"[: ARITY[name]])
    inputs = [("f16x2", o.view(np.uint32)[:, 0]) for o in operands]
    (found,) = execute(f"{name}.rn.f16x2 %x, {names};", inputs, ["f16x2"])
    rows = zip(*(o.ravel().astype(np.float64).tolist() for o in operands), strict=True)
    with np.errstate(over="ignore"):
        wanted = np.array([exact(name, row, "f16", "rn") for row in rows]).astype(np.float16)
    same(found.view(np.float16), wanted)


def brain(values: Array) -> Array:
    """The bits of the bfloat16 numbers that floats hold."""
    bits: Array = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_instruction(name: str, packed: bool) -> None:
    words = [brain(floats("f32", s)) for s in range(ARITY[name])]
    if name == "fma":
        words[2][COUNT // 2 :: 2] = (
            words[0][COUNT // 2 :: 2] // 2
        )  # far smaller: ties decided by it
    numbers = [(w.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for w in words]
    names = ", ".join(f"%{letter}" for letter in "abc"[: ARITY[name]])
    if packed:
        inputs = [("bf16x2", w.view(np.uint32)) for w in words]
        (found,) = execute(f"{name}.rn.bf16x2 %x, {names};", inputs, ["bf16x2"])
    else:
        inputs = [("bf16", w) for w in words]
        (found,) = execute(f"{name}.rn.bf16 %x, {names};", inputs, ["bf16"])
    rows = zip(*(n.tolist() for n in numbers), strict=True)
    wanted = np.array([exact(name, row, "bf16", "rn") for row in rows]).astype(np.float32)
    found_values = (found.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    same(found_values, wanted)


def test_fma_of_doubles_rounds_once_where_errors_underflow_or_overflow() -> None:
    rng = np.random.default_rng(5)
    scale = rng.choice([-1040, -560, -500, -30, 480, 511, 1000], (3, COUNT))
    a, b, c = np.ldexp(rng.normal(size=(3, COUNT)), scale)
    c[::3] = -(a * b)[::3]
    c = np.where(np.isfinite(c), c, 1.0)
    (found,) = execute("fma.rn.f64 %x, %a, %b, %c;", [("f64", v) for v in (a, b, c)], ["f64"])
    wanted = [
        exact("fma", row, "f64", "rn")
        for row in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    same(found.view(np.float64), np.array(wanted))


def test_fma_of_floats_does_not_round_twice() -> None:
    # the sum lies 2^-80 above the middle of two floats: double rounding would go to even
    a, b = np.array([1 + 2.0**-12], np.float32), np.array([1 + 2.0**-12], np.float32)
    c = np.array([2.0**-80], np.float32)
    (found,) = execute("fma.rn.f32 %x, %a, %b, %c;", [("f32", v) for v in (a, b, c)], ["f32"])
    assert found.view(np.float32)[0] == np.float32(1 + 2.0**-11 + 2.0**-23)


@pytest.mark.parametrize("code", ["add.ftz.f32", "mul.ftz.f32", "sub.ftz.f32", "max.ftz.f32"])
def test_flush_to_zero(code: str) -> None:
    a, b = floats("f32", 1), floats("f32", 2)
    a[-50:] = np.float32(1e-39)
    b[-50:] = np.float32(1e-38)
    (found,) = execute(f"{code} %x, %a, %b;", [("f32", a), ("f32", b)], ["f32"])

    def flush(x: Array) -> Array:
        return np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x).astype(np.float32)

    operation = {"add": np.add, "mul": np.multiply, "sub": np.subtract, "max": np.fmax}[code[:3]]
    with np.errstate(all="ignore"):
        wanted = flush(operation(flush(a), flush(b)))
    found_values = found.view(np.float32)
    zero = (found_values == 0) & (wanted == 0) & (code[:3] == "max")  # np.fmax ignores zeros' signs
    same(np.where(zero, 0, found_values), np.where(zero, 0, wanted))


def test_saturation_clamps_and_makes_nan_zero() -> None:
    a = np.array([-1, 0.25, 3, np.nan, np.inf, -np.inf], np.float32)
    (found,) = execute("add.sat.f32 %x, %a, 0f00000000;", [("f32", a)], ["f32"])
    assert found.view(np.float32).tolist() == [0, 0.25, 1, 0, 1, 0]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_minimum_and_maximum_order_zeros_and_ignore_nan(name: str, kind: str) -> None:
    a, b = floats(kind, 3), floats(kind, 4)
    (found,) = execute(f"{name}.{kind} %x, %a, %b;", [(kind, a), (kind, b)], [kind])

    def choose(x: float, y: float) -> float:
        if math.isnan(x):
            return y
        if math.isnan(y):
            return x
        key = (x, math.copysign(1, x)), (y, math.copysign(1, y))
        return x if (key[0] < key[1]) == (name == "min") else y

    pairs = zip(a.astype(float).tolist(), b.astype(float).tolist(), strict=True)
    same(found.view(KINDS[kind]), np.array([choose(x, y) for x, y in pairs]).astype(KINDS[kind]))


def test_nan_aware_minimum() -> None:
    a = np.array([1, np.nan, 2], np.float32)
    b = np.array([np.nan, 1, 3], np.float32)
    (found,) = execute("min.NaN.f32 %x, %a, %b;", [("f32", a), ("f32", b)], ["f32"])
    assert np.isnan(found.view(np.float32)).tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_sign_instructions(kind: str) -> None:
    a, b = floats(kind, 5), floats(kind, 6)
    word = f"u{a.dtype.itemsize}"
    sign = np.dtype(word).type(1 << (a.dtype.itemsize * 8 - 1))
    negated, absolute = execute(f"neg.{kind} %x, %a; abs.{kind} %y, %a;", [(kind, a)], [kind, kind])
    same(negated, a.view(word) ^ sign)
    same(absolute, a.view(word) & ~sign)
    if kind != "f16":
        (copied,) = execute(f"copysign.{kind} %x, %a, %b;", [(kind, a), (kind, b)], [kind])
        same(copied.view(a.dtype), np.copysign(b, a))


COMPARISONS = [
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "equ",
    "neu",
    "ltu",
    "leu",
    "gtu",
    "geu",
    "num",
    "nan",
]


@pytest.mark.parametrize("kind", ["f32", "f64", "f16"])
@pytest.mark.parametrize("name", COMPARISONS)
def test_float_comparison(name: str, kind: str) -> None:
    a, b = floats(kind, 7), floats(kind, 8)
    b[::3] = a[::3]
    code = f"setp.{name}.{kind} %p|%q, %a, %b; selp.u32 %x, 1, 0, %p; selp.u32 %y, 1, 0, %q;"
    found, negation = execute(code, [(kind, a), (kind, b)], ["b32", "b32"])
    unordered = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        wanted = unordered == (name == "nan")
    else:
        plain = getattr(
            np,
            {
                "eq": "equal",
                "ne": "not_equal",
                "lt": "less",
                "le": "less_equal",
                "gt": "greater",
                "ge": "greater_equal",
            }[name[:2]],
        )(a, b)
        wanted = np.where(unordered, name.endswith("u"), plain)
    same(found, wanted.astype(np.uint32))
    same(negation, (~wanted).astype(np.uint32))


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64", "s16", "u16"])
@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_integer_comparison(name: str, kind: str) -> None:
    bits = int(kind[1:])
    a, b = integers(bits, 1), integers(bits, 2)
    b[::3] = a[::3]
    code = f"setp.{name}.{kind} %p, %a, %b; selp.u32 %x, 1, 0, %p;"
    (found,) = execute(code, [(kind, a), (kind, b)], ["b32"])
    typed = [x.view(f"i{bits // 8}") if kind[0] == "s" else x for x in (a, b)]
    symbol = {
        "eq": "__eq__",
        "ne": "__ne__",
        "lt": "__lt__",
        "le": "__le__",
        "gt": "__gt__",
        "ge": "__ge__",
    }
    same(found, getattr(typed[0], symbol[name])(typed[1]).astype(np.uint32))


@pytest.mark.parametrize("combine", ["and", "or", "xor"])
def test_comparison_combined_with_a_predicate(combine: str) -> None:
    a, b = integers(32, 1), integers(32, 2)
    code = f"setp.lt.u32 %q, %a, 100; setp.gt.{combine}.u32 %p, %b, 50, !%q; selp.u32 %x, 1, 0, %p;"
    (found,) = execute(code, [("u32", a), ("u32", b)], ["b32"])
    q, t = ~(a < 100), b > 50
    same(found, {"and": t & q, "or": t | q, "xor": t ^ q}[combine].astype(np.uint32))


def test_set_makes_numbers_and_masks() -> None:
    a, b = integers(32, 1), integers(32, 2)
    code = "set.lt.u32.u32 %x, %a, %b; set.lt.f32.u32 %y, %a, %b;"
    mask, number = execute(code, [("u32", a), ("u32", b)], ["b32", "f32"])
    same(mask, np.where(a < b, np.uint32(0xFFFFFFFF), np.uint32(0)))
    same(number.view(np.float32), (a < b).astype(np.float32))


@pytest.mark.parametrize(
    "test", ["finite", "infinite", "number", "notanumber", "normal", "subnormal"]
)
def test_classification(test: str) -> None:
    a = floats("f32", 1)
    (found,) = execute(f"testp.{test}.f32 %p, %a; selp.u32 %x, 1, 0, %p;", [("f32", a)], ["b32"])
    tiny = (np.abs(a) < 2.0**-126) & (a != 0)
    wanted = {
        "finite": np.isfinite(a),
        "infinite": np.isinf(a),
        "number": ~np.isnan(a),
        "notanumber": np.isnan(a),
        "normal": np.isfinite(a) & ~tiny & (a != 0),
        "subnormal": tiny,
    }[test]
    same(found, wanted.astype(np.uint32))


@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
def test_float_to_integer(source: str, to: str, mode: str) -> None:
    a = floats(source, 1)
    bits = int(to[1:])
    result = f"b{max(bits, 16)}"
    (found,) = execute(f"cvt.{mode}.{to}.{source} %x, %a;", [(source, a)], [result])
    low, high = (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if to[0] == "s" else (0, (1 << bits) - 1)
    )

    def convert(x: float) -> int:
        if math.isnan(x):
            return 0
        if math.isinf(x):
            return high if x > 0 else low
        rules: dict[str, Callable[[float], int]] = {
            "rni": round,
            "rzi": math.trunc,
            "rmi": math.floor,
            "rpi": math.ceil,
        }
        whole = rules[mode](x)
        return max(low, min(high, whole))

    wanted = [convert(x) % (1 << max(bits, 16)) for x in a.astype(float).tolist()]
    same(found, np.array(wanted, found.dtype))


@pytest.mark.parametrize(
    ("to", "mode"),
    [("f16", "rn"), *[(to, m) for to in ("f32", "f64") for m in ("rn", "rz", "rm", "rp")]],
)
@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
def test_integer_to_float(to: str, mode: str, source: str) -> None:
    bits = int(source[1:])
    a = integers(bits, 1)
    (found,) = execute(f"cvt.{mode}.{to}.{source} %x, %a;", [(source, a)], [to])
    values = [signed(v, bits) if source[0] == "s" else v for v in a.tolist()]
    with np.errstate(over="ignore"):
        wanted = np.array([rounded(Fraction(v), to, mode) for v in values]).astype(KINDS[to])
    same(found.view(KINDS[to]), wanted)


@pytest.mark.parametrize(
    ("to", "source", "mode"),
    [
        ("f32", "f64", "rn"),
        ("f32", "f64", "rz"),
        ("f32", "f64", "rm"),
        ("f32", "f64", "rp"),
        ("f16", "f32", "rn"),
        ("f16", "f32", "rz"),
        ("f16", "f64", "rn"),
        ("bf16", "f32", "rn"),
        ("bf16", "f32", "rz"),
    ],
)
def test_narrowing(to: str, source: str, mode: str) -> None:
    a = floats(source, 1)
    if source == "f32":  # the middles between halves
        a[200:] = (a[200:].view(np.uint32) & np.uint32(0xFFFFF000) | np.uint32(0x1000)).view(
            np.float32
        )
        a[300:] = (a[300:].view(np.uint32) & np.uint32(0xFFFF0000) | np.uint32(0x8000)).view(
            np.float32
        )
    (found,) = execute(f"cvt.{mode}.{to}.{source} %x, %a;", [(source, a)], [to])
    wanted = []
    for x in a.astype(float).tolist():
        finite = math.isfinite(x) and x != 0
        wanted.append(rounded(Fraction(x), to, mode) if finite else x)
    if to == "bf16":
        same((found.astype(np.uint32) << 16).view(np.float32), np.array(wanted).astype(np.float32))
    else:
        with np.errstate(over="ignore"):
            same(found.view(KINDS[to]), np.array(wanted).astype(KINDS[to]))


@pytest.mark.parametrize(("to", "source"), [("f32", "f16"), ("f64", "f32"), ("f64", "f16")])
def test_widening(to: str, source: str) -> None:
    a = floats(source, 1)
    (found,) = execute(f"cvt.{to}.{source} %x, %a;", [(source, a)], [to])
    same(found.view(KINDS[to]), a.astype(KINDS[to]))


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
def test_packing_conversion_puts_the_first_operand_on_top(kind: str) -> None:
    a, b = floats("f32", 1), floats("f32", 2)
    (found,) = execute(f"cvt.rn.{kind}.f32 %x, %a, %b;", [("f32", a), ("f32", b)], [kind])
    one = kind.removesuffix("x2")
    (high,) = execute(f"cvt.rn.{one}.f32 %x, %a;", [("f32", a)], [one])
    (low,) = execute(f"cvt.rn.{one}.f32 %x, %a;", [("f32", b)], [one])
    same(found, high.astype(np.uint32) << 16 | low)


def test_float_rounded_to_an_integral_float() -> None:
    a = floats("f32", 1)
    code = "cvt.rni.f32.f32 %x, %a; cvt.rpi.f32.f32 %y, %a; cvt.sat.f32.f32 %z, %a;"
    nearest, up, saturated = execute(code, [("f32", a)], ["f32"] * 3)
    same(nearest.view(np.float32), np.rint(a))
    same(up.view(np.float32), np.ceil(a))
    same(saturated.view(np.float32), np.nan_to_num(np.clip(a, 0, 1), nan=0.0) + np.float32(0))


def test_moves_pack_and_unpack() -> None:
    a, b = integers(32, 1), integers(32, 2)
    code = """mov.b64 %rd0, {%a, %b}; mov.b64 {%x, %r0}, %rd0;
    mov.b32 {%h0, %h1}, %r0; mov.b32 %y, {%h1, %h0};"""
    first, swapped = execute(code, [("b32", a), ("b32", b)], ["b32", "b32"])
    same(first, a)
    same(swapped, b >> 16 | b << 16)


def test_predicated_instruction_leaves_other_threads_alone() -> None:
    a = integers(32, 1)
    code = "setp.lt.u32 %p, %a, 1000; mov.u32 %x, 5; @%p mov.u32 %x, 7; @!%p add.u32 %x, %x, 1;"
    (found,) = execute(code, [("u32", a)], ["u32"])
    same(found, np.where(a < 1000, 7, 6).astype(np.uint32))


def test_loop_whose_length_differs_by_thread() -> None:
    a = np.arange(200, dtype=np.uint32) % 37
    code = """mov.u32 %x, 0; mov.u32 %r0, 0;
    AGAIN: setp.ge.u32 %p, %r0, %a; @%p bra OUT;
    add.u32 %r0, %r0, 1; add.u32 %x, %x, %r0; bra AGAIN; OUT:"""
    (found,) = execute(code, [("u32", a)], ["u32"])
    same(found, a * (a + 1) // 2)


def test_unknown_opcode_is_an_error_that_names_it() -> None:
    a = integers(32, 1)
    with pytest.raises(UnsupportedInstructionError, match=r"frobnicate\.rn\.u32"):
        execute("frobnicate.rn.u32 %x, %a;", [("u32", a)], ["u32"])


def test_unsupported_instruction_in_a_cvt_is_named() -> None:
    a = floats("f32", 1)
    with pytest.raises(UnsupportedInstructionError, match="e4m3x2"):
        execute("cvt.rn.satfinite.e4m3x2.f32 %x, %a, %a;", [("f32", a)], ["b16"])


def test_launch_of_too_many_threads_is_refused() -> None:
    device = Device()
    ptx = ".visible .entry nothing() { ret; }"
    with pytest.raises(Exception, match="CUDA error 9"):
        device.launch(ptx, "nothing", (1, 1, 1), (2048, 1, 1), [])
