"""The count of vector instructions: what it takes for a loop, and that every kernel has one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import instructions
from fusedgrad import _C, activations
from fusedgrad.fuse import Fused

ROOT = Path(__file__).parents[1]

# A loop over vectors of 64 bytes around a loop that moves none, and a loop over scalars.
DISASSEMBLY = """
0000000000000010 <block>:
  10:\tvmovups (%rsi,%rax,1),%zmm0
  16:\tvdivps %zmm1,%zmm0,%zmm0
  1c:\tvaddps %zmm2,%zmm0,%zmm0{%k1}
  22:\tvmovups %zmm0,(%rdi,%rax,1)
  24:\tadd    $0x40,%rcx
  28:\tsub    $0xffffffffffffff80,%rax
  2c:\tcmp    %rax,%rdx
  2f:\tjne    10 <block>
  31:\tvaddss (%rsi,%rax,4),%xmm1,%xmm0
  36:\tadd    $0x1,%rax
  3a:\tjne    31 <block+0x21>
  3c:\tret

0000000000000040 <other>:
  40:\tret
"""


def test_a_loop_is_counted_for_sixteen_elements() -> None:
    found = dict(instructions.functions(DISASSEMBLY))
    assert found.keys() == {"block", "other"}
    (loop,) = instructions.main_loops(found["block"], "float", 64)
    assert len(loop.instructions) == 8
    assert loop.elements == 32  # the loop moves 128 bytes
    assert (loop.vector_count, loop.slow_count) == (2, 0.5)
    assert instructions.main_loops(found["other"], "float", 64) == []


# A check, two loops for any operands, two for ordinary ones, and one that fills
IN_TWO_LOOPS = "\n0000000000000000 <block>:\n" + "".join(
    f"{address:4x}:\tvmovups (%rsi,%rax,1),%zmm0\n"
    + f"{address + 1:4x}:\tvaddps %zmm2,%zmm0,%zmm0\n" * arithmetic
    + f"{address + 2:4x}:\tadd    $0x40,%rax\n{address + 3:4x}:\tjne    {address:x} <block>\n"
    for address, arithmetic in (
        (0x10, 9),
        (0x20, 50),
        (0x30, 60),
        (0x40, 40),
        (0x50, 30),
        (0x60, 0),
    )
)


def test_of_a_kernel_in_two_loops_the_check_and_those_for_ordinary_operands_are_counted() -> None:
    ((_, code),) = instructions.functions(IN_TWO_LOOPS)
    loops = instructions.main_loops(code, "float", 64)
    assert [loop.vector_count for loop in loops] == [10, 41, 31]


@pytest.mark.sampled(4)
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not on PATH")
@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_every_kernel_is_vectorised(capability: str) -> None:
    if "x86_64" not in Path(_C.__file__).name:
        pytest.skip("this library holds no such kernels")
    disassembly = instructions.disassembled(Path(_C.__file__))
    for type_name in instructions.WIDTH:
        kernels = list(instructions.library_kernels(disassembly, type_name, capability))
        assert len(kernels) > 40
        assert [kernel.title for kernel in kernels if not kernel.loops] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not on PATH")
@pytest.mark.parametrize("type_name", instructions.WIDTH)
def test_every_fused_function_is_vectorised(type_name: str) -> None:
    if _C.cpu_capability() not in ("avx2", "avx512"):
        pytest.skip("the compiler vectorises not every function for this processor")
    # A process of its own, where none is compiled yet
    command = [sys.executable, "-m", "benchmarks.instructions", "--type", type_name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    for name in dir(activations):
        if isinstance(getattr(activations, name), Fused):
            for title in (name, f"{name}, backward"):
                counted = re.search(
                    rf"^\| {title} +\| +([\d.]+|not vectorised) \|", done.stdout, re.M
                )
                assert counted, title
                assert counted[1] != "not vectorised", title
