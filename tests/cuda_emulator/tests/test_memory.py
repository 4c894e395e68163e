"""Loads, stores and atomic operations in every form, and what is checked about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cuda_emulator import Device, DeviceArray, OutOfBoundsError
from cuda_emulator.errors import (
    EmulationError,
    GlobalMemoryRaceError,
    UninitializedReadError,
    UnsupportedInstructionError,
)

from .snippets import execute

Array = NDArray[Any]
THREADS = 64
RNG = np.random.default_rng(7)

HEADER = """.version 9.0
.target sm_100
.address_size 64
.visible .entry kernel(.param .u64 out, .param .u64 in)
{
.reg .b64 %o, %i, %rd<9>; .reg .b32 %t, %r<9>; .reg .b16 %h<9>; .reg .f32 %f<9>;
.reg .f64 %fd<5>; .reg .pred %p<5>;
ld.param.u64 %o, [out]; ld.param.u64 %i, [in]; mov.u32 %t, %tid.x;
"""


def launch(
    code: str,
    out: DeviceArray,
    values: DeviceArray,
    grid: int = 1,
    block: int = THREADS,
    declarations: str = "",
    shared: int = 0,
) -> None:
    """Run code with %o and %i holding the two pointers and %t the thread."""
    ptx = HEADER.replace(".visible", f"{declarations}\n.visible") + code + "\nret;\n}"
    out.device.launch(ptx, "kernel", (grid, 1, 1), (block, 1, 1), [out, values], shared)


def run(code: str, values: Array, shape: int, dtype: Any, **options: Any) -> Array:
    """The output of one launch."""
    device = Device()
    out = device.empty(shape, dtype, "out")
    launch(code, out, device.array(values, "in"), **options)
    return out.numpy()


# ---------------------------------------------------------------------- loads and stores


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("signed", [False, True])
def test_load_extends_by_the_sign_of_its_type(bits: int, signed: bool) -> None:
    kind = f"{'s' if signed else 'u'}{bits}"
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    values = RNG.integers(0, 256, THREADS * dtype.itemsize, dtype=np.uint8).view(dtype)
    register = "%rd2" if bits == 64 else "%r2"
    width = 64 if bits == 64 else 32
    code = f"""mul.wide.u32 %rd0, %t, {bits // 8}; add.s64 %rd0, %rd0, %i;
    mul.wide.u32 %rd1, %t, {width // 8}; add.s64 %rd1, %rd1, %o;
    ld.global.{kind} {register}, [%rd0]; st.global.b{width} [%rd1], {register};"""
    found = run(code, values, THREADS, f"u{width // 8}")
    wide = np.dtype(f"{dtype.kind}{width // 8}")
    np.testing.assert_array_equal(found, values.astype(wide).view(found.dtype))


@pytest.mark.parametrize(
    ("kind", "registers"),
    [
        ("v2.b32", "{%r0, %r1}"),
        ("v4.b32", "{%r0, %r1, %r2, %r3}"),
        ("v4.f32", "{%f0, %f1, %f2, %f3}"),
        ("v2.f64", "{%fd0, %fd1}"),
        ("v4.b16", "{%h0, %h1, %h2, %h3}"),
        ("v2.u8", "{%h0, %h1}"),
        ("v8.b32", "{%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}"),
        ("v4.b64", "{%rd2, %rd3, %rd4, %rd5}"),
    ],
)
@pytest.mark.parametrize("cache", ["", ".nc", ".L1::no_allocate"])
def test_vector_load_and_store(kind: str, registers: str, cache: str) -> None:
    count, bits = kind[1:].split(".")
    size = int(count) * int(bits[1:]) // 8
    values = RNG.integers(0, 256, size * THREADS, dtype=np.uint8)
    code = f"""mul.wide.u32 %rd0, %t, {size}; add.s64 %rd1, %rd0, %o; add.s64 %rd0, %rd0, %i;
    ld.global{cache}.{kind} {registers}, [%rd0]; st.global.{kind} [%rd1], {registers};"""
    np.testing.assert_array_equal(run(code, values, size * THREADS, np.uint8), values)


def test_displacement_of_an_address() -> None:
    values = np.arange(THREADS + 8, dtype=np.uint32)
    code = """mul.wide.u32 %rd0, %t, 4; add.s64 %rd1, %rd0, %o; add.s64 %rd0, %rd0, %i;
    add.s64 %rd0, %rd0, 16; ld.global.u32 %r0, [%rd0+-12]; ld.global.u32 %r1, [%rd0+12];
    add.u32 %r0, %r0, %r1; st.global.u32 [%rd1], %r0;"""
    found = run(code, values, THREADS, np.uint32)
    np.testing.assert_array_equal(found, 2 * np.arange(THREADS) + 8)


def test_generic_addresses_of_all_spaces() -> None:
    values = np.arange(THREADS, dtype=np.uint32)
    code = """.shared .align 4 .b8 tile[256]; .local .align 4 .b8 spill[8];
    mul.wide.u32 %rd0, %t, 4; add.s64 %rd1, %rd0, %o; add.s64 %rd2, %rd0, %i;
    ld.u32 %r0, [%rd2];
    mov.u64 %rd3, tile; cvta.shared.u64 %rd4, %rd3; add.s64 %rd4, %rd4, %rd0; st.u32 [%rd4], %r0;
    mov.u64 %rd5, spill; cvta.local.u64 %rd6, %rd5; st.u32 [%rd6+4], %r0; ld.u32 %r1, [%rd6+4];
    isspacep.shared %p0, %rd4; isspacep.global %p1, %rd1; isspacep.local %p2, %rd6;
    and.pred %p0, %p0, %p1; and.pred %p0, %p0, %p2; selp.u32 %r2, 1, 0, %p0;
    cvta.to.shared.u64 %rd7, %rd4; ld.shared.u32 %r3, [%rd7];
    add.u32 %r3, %r3, %r1; mad.lo.u32 %r3, %r2, 1000, %r3; st.u32 [%rd1], %r3;"""
    found = run(code, values, THREADS, np.uint32)
    np.testing.assert_array_equal(found, 2 * values + 1000)


def test_module_variables_with_initial_values_and_pointers() -> None:
    declarations = """.global .align 4 .u32 numbers[4] = {10, 20, 30};
    .global .align 8 .u64 pointer = generic(numbers)+4;
    .const .align 4 .f32 half[1] = {0f3F000000};"""
    code = """mul.wide.u32 %rd0, %t, 4; add.s64 %rd1, %rd0, %o;
    ld.global.u64 %rd2, [pointer]; ld.global.u32 %r0, [%rd2]; ld.global.u32 %r1, [numbers+8];
    ld.const.f32 %f0, [half]; mov.b32 %r2, %f0; add.u32 %r0, %r0, %r1; add.u32 %r0, %r0, %r2;
    st.global.u32 [%rd1], %r0;"""
    found = run(code, np.zeros(1, np.uint32), THREADS, np.uint32, declarations=declarations)
    np.testing.assert_array_equal(found, np.full(THREADS, 50 + 0x3F000000))


def test_called_function_is_inlined() -> None:
    declarations = """.func (.param .b32 result) twice(.param .b32 x, .param .b32 y)
    { .reg .b32 %a, %b; .reg .pred %q; ld.param.b32 %a, [x]; ld.param.b32 %b, [y];
      setp.lt.u32 %q, %a, 10; @%q bra SMALL; shl.b32 %a, %a, 1;
      SMALL: add.u32 %a, %a, %b; st.param.b32 [result], %a; ret; }"""
    call = """{ .param .b32 p0; st.param.b32 [p0], %r0; .param .b32 p1; st.param.b32 [p1], 100;
    .param .b32 back; call.uni (back), twice, (p0, p1); ld.param.b32 %r0, [back]; }"""
    code = f"""mul.wide.u32 %rd0, %t, 4; add.s64 %rd1, %rd0, %o; mov.u32 %r0, %t;
    {call} {call} st.global.u32 [%rd1], %r0;"""
    found = run(code, np.zeros(1, np.uint32), THREADS, np.uint32, declarations=declarations)
    t = np.arange(THREADS)
    once = np.where(t < 10, t, 2 * t) + 100
    np.testing.assert_array_equal(found, 2 * once + 100)


def test_unknown_call_is_an_error_only_if_it_is_reached() -> None:
    code = """setp.gt.u32 %p0, %t, 1000; mul.wide.u32 %rd0, %t, 4; add.s64 %rd1, %rd0, %o;
    @!%p0 bra SKIP; call vprintf, (%rd0, %rd0); SKIP: st.global.u32 [%rd1], %t;"""
    found = run(code, np.zeros(1, np.uint32), THREADS, np.uint32)
    np.testing.assert_array_equal(found, np.arange(THREADS))
    with pytest.raises(UnsupportedInstructionError, match="vprintf"):
        run(code.replace("@!%p0 bra SKIP;", ""), np.zeros(1, np.uint32), THREADS, np.uint32)


# ---------------------------------------------------------------------- atomic operations


RULES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda old, value, other: old + value,
    "min": lambda old, value, other: min(old, value),
    "max": lambda old, value, other: max(old, value),
    "and": lambda old, value, other: old & value,
    "or": lambda old, value, other: old | value,
    "xor": lambda old, value, other: old ^ value,
    "exch": lambda old, value, other: value,
    "cas": lambda old, value, other: other if old == value else old,
    "inc": lambda old, value, other: 0 if old >= value else old + 1,
    "dec": lambda old, value, other: value if old == 0 or old > value else old - 1,
}
ATOMICS = [
    *[("b32", name) for name in ("and", "or", "xor", "exch", "cas")],
    *[("b64", name) for name in ("and", "or", "xor", "exch", "cas")],
    *[("u32", name) for name in ("add", "min", "max", "inc", "dec")],
    *[("s32", name) for name in ("add", "min", "max")],
    *[("u64", name) for name in ("add", "min", "max")],
    *[("s64", name) for name in ("min", "max")],
    ("f32", "add"),
    ("f64", "add"),
]


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("cells", [1, 3, THREADS])
@pytest.mark.parametrize(("kind", "name"), ATOMICS)
def test_atomic_operation(kind: str, name: str, cells: int, space: str) -> None:
    size = int(kind[1:]) // 8
    dtype = np.dtype(f"{ {'s': 'i', 'f': 'f'}.get(kind[0], 'u') }{size}".replace(" ", ""))
    values = RNG.integers(0, 7, THREADS).astype(dtype)
    if kind[0] == "s":
        values -= 3
    register, old = {"f32": ("%f0", "%f1"), "f64": ("%fd0", "%fd1")}.get(
        kind, ("%r0", "%r1") if size == 4 else ("%rd6", "%rd7")
    )
    typed = f"b{8 * size}"
    operands = f"{register}, 5" if name == "cas" else register
    where = "%rd3" if space == "global" else "%rd4"
    code = f""".shared .align 8 .b8 tile[1024];
    mul.wide.u32 %rd0, %t, {size}; add.s64 %rd1, %rd0, %o; add.s64 %rd2, %rd0, %i;
    ld.global.{typed} {register}, [%rd2];
    rem.u32 %r4, %t, {cells}; mul.wide.u32 %rd4, %r4, {size}; add.s64 %rd3, %rd4, %o;
    add.s64 %rd3, %rd3, {THREADS * size};
    mov.u64 %rd5, tile; add.s64 %rd8, %rd5, %rd0; add.s64 %rd4, %rd4, %rd5;
    st.shared.{typed} [%rd8], 0; bar.sync 0;
    atom.{space}.{name}.{kind} {old}, [{where}], {operands};
    st.global.{typed} [%rd1], {old};
    bar.sync 0; add.s64 %rd2, %rd1, {THREADS * size};
    setp.ge.u32 %p0, %t, {cells}; @%p0 bra DONE;
    ld.{space}.{typed} {old}, [{"%rd3" if space == "global" else "%rd4"}];
    st.global.{typed} [%rd2], {old}; DONE:"""
    device = Device(check_races=False)  # the old words depend on the order
    start = np.zeros(2 * THREADS, dtype)
    out = device.array(start, "out")
    launch(code, out, device.array(values, "in"))
    found = out.numpy()
    memory = [dtype.type(0)] * cells
    for thread in range(THREADS):
        cell = thread % cells
        assert found[thread] == memory[cell]
        memory[cell] = dtype.type(RULES[name](memory[cell], values[thread], dtype.type(5)))
    np.testing.assert_array_equal(found[THREADS : THREADS + cells], memory)


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
def test_atomic_addition_of_halves(kind: str) -> None:
    one = 0x3C00 if kind == "f16x2" else 0x3F80
    three = 0x4200 if kind == "f16x2" else 0x4040
    code = f"""mov.u32 %r0, {one << 16 | one}; setp.lt.u32 %p0, %t, 3;
    @%p0 red.global.add.noftz.{kind} [%o], %r0;"""
    device = Device()
    out = device.array(np.zeros(1, np.uint32))
    launch(code, out, out)
    assert out.numpy()[0] == three << 16 | three


# ---------------------------------------------------------------------- what is checked


def test_zeros_and_chosen_blocks_reach_far_beyond_32_bits() -> None:
    device = Device()
    count = (1 << 31) + 100
    values = device.zeros(count, np.float32, "huge")
    out = device.zeros(count, np.float32, "out")
    code = """mov.u32 %r0, %ctaid.x; mul.wide.u32 %rd0, %r0, 64; cvt.u64.u32 %rd1, %t;
    add.s64 %rd0, %rd0, %rd1; shl.b64 %rd0, %rd0, 2; add.s64 %rd1, %rd0, %i; add.s64 %rd2, %rd0, %o;
    ld.global.f32 %f0, [%rd1]; add.f32 %f0, %f0, 0f3F800000; st.global.f32 [%rd2], %f0;"""
    grid = -(-count // THREADS)
    with device.only_blocks(0, -2):
        launch(code, out, values, grid)
    data = device.memory.read(out.allocation).view(np.float32)
    assert data[:THREADS].tolist() == [1] * THREADS
    assert data[(grid - 2) * THREADS : (grid - 1) * THREADS].tolist() == [1] * THREADS
    with device.only_blocks(-1), pytest.raises(OutOfBoundsError, match="past the end"):
        launch(code, out, values, grid)


def test_freed_array_is_not_readable() -> None:
    device = Device()
    values = device.array(np.zeros(THREADS, np.uint32), "gone")
    out = device.empty(THREADS, np.uint32, "out")
    address = np.uint64(values.pointer)
    del values
    ptx = HEADER + "ld.global.u32 %r0, [%i]; ret;\n}"
    with pytest.raises(OutOfBoundsError, match=r"'gone' \(256 bytes, freed\)"):
        device.launch(ptx, "kernel", (1, 1, 1), (1, 1, 1), [out, address])


def test_bytes_written_by_one_launch_are_readable_in_the_next() -> None:
    device = Device()
    out = device.empty(THREADS, np.uint32, "out")
    write = "mul.wide.u32 %rd0, %t, 4; add.s64 %rd0, %rd0, %o; st.global.u32 [%rd0], %t;"
    read = "mul.wide.u32 %rd0, %t, 4; add.s64 %rd0, %rd0, %i; ld.global.u32 %r0, [%rd0];"
    with pytest.raises(UninitializedReadError, match="byte 0 of 'out'"):
        launch(read, out, out)
    launch(write, out, out, block=THREADS // 2)
    with pytest.raises(UninitializedReadError, match=f"byte {THREADS * 2} of 'out'"):
        launch(read, out, out)
    launch(write, out, out)
    launch(read, out, out)


def test_race_check_knows_elements_and_can_be_turned_off() -> None:
    code = "st.global.u32 [%o], %t;"
    for check in (True, False):
        device = Device(check_races=check)
        out = device.empty(1, np.uint32, "out")
        if check:
            with pytest.raises(GlobalMemoryRaceError, match=r"block \(\d, 0, 0\) writes"):
                launch(code, out, out, grid=2)
        else:
            launch(code, out, out, grid=2)


def test_constant_memory_is_read_only() -> None:
    declarations = ".const .align 4 .u32 fixed[1] = {1};"
    code = "mov.u64 %rd0, fixed; st.global.u32 [%rd0], %t;"
    device = Device()
    out = device.empty(1, np.uint32, "out")
    with pytest.raises(OutOfBoundsError, match="write to the constant 'fixed'"):
        launch(code, out, out, declarations=declarations)


def test_reading_parameters_out_of_bounds() -> None:
    a = np.zeros(4, np.uint32)
    with pytest.raises(EmulationError, match="kernel parameters"):
        execute("mov.u64 %rd0, p0; ld.param.u32 %x, [%rd0+400];", [("u32", a)], ["u32"])
