"""Runs a few PTX instructions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cuda_emulator import Device
from cuda_emulator.approximations import WorstCase
from cuda_emulator.ptx import SIZES

Array = NDArray[Any]


def register_type(kind: str) -> str:
    """The type of a register that holds values of a PTX type."""
    return "f32" if kind == "f32" else "f64" if kind == "f64" else f"b{max(16, SIZES[kind] * 8)}"


def execute(
    code: str,
    inputs: Sequence[tuple[str, Array]],
    outputs: Sequence[str],
    worst_case: WorstCase = None,
    block: int = 64,
) -> list[Array]:
    """Run `code` in each thread; inputs are %a, %b, ..., outputs %x, %y, ..., as unsigned words.

    The arrays of inputs are raw words or numpy values of the type's size.
    """
    count = len(inputs[0][1])
    names = [f"%{letter}" for letter in "abcdefg"[: len(inputs)]]
    results = [f"%{letter}" for letter in "xyz"[: len(outputs)]]
    lines = [".version 9.0", ".target sm_90", ".address_size 64", ".visible .entry snippet("]
    total = len(inputs) + len(outputs)
    lines.append(", ".join(f".param .u64 p{n}" for n in range(total)) + ", .param .u32 count)\n{")
    lines.append(".reg .b64 %base, %place, %index; .reg .b32 %t, %u, %n; .reg .pred %in, %p, %q;")
    lines.append(".reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<8>; .reg .b16 %h<8>;")
    for name, (kind, _) in zip(names, inputs, strict=True):
        lines.append(f".reg .{register_type(kind)} {name};")
    for name, kind in zip(results, outputs, strict=True):
        lines.append(f".reg .{register_type(kind)} {name};")
    lines.append("mov.u32 %t, %ctaid.x; mov.u32 %u, %ntid.x; mul.lo.u32 %t, %t, %u;")
    lines.append("mov.u32 %u, %tid.x; add.u32 %t, %t, %u; ld.param.u32 %n, [count];")
    lines.append("setp.ge.u32 %in, %t, %n; @%in bra DONE; cvt.u64.u32 %index, %t;")
    for n, (name, (kind, _)) in enumerate(zip(names, inputs, strict=True)):
        lines.append(f"ld.param.u64 %base, [p{n}];")
        lines.append(f"mad.lo.u64 %place, %index, {SIZES[kind]}, %base;")
        lines.append(f"ld.global.u{SIZES[kind] * 8} {name}, [%place];")
    lines.append(code)
    for n, (name, kind) in enumerate(zip(results, outputs, strict=True)):
        lines.append(f"ld.param.u64 %base, [p{len(inputs) + n}];")
        lines.append(f"mad.lo.u64 %place, %index, {SIZES[kind]}, %base;")
        lines.append(f"st.global.u{SIZES[kind] * 8} [%place], {name};")
    lines.append("DONE: ret;\n}")
    device = Device(worst_case)
    arrays = [device.array(values, name) for name, (_, values) in zip(names, inputs, strict=True)]
    empty = [device.empty(count, f"u{SIZES[kind]}", kind) for kind in outputs]
    grid = (-(-count // block), 1, 1)
    device.launch(
        "\n".join(lines), "snippet", grid, (block, 1, 1), [*arrays, *empty, np.uint32(count)]
    )
    return [array.numpy() for array in empty]
