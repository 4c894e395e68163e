"""`python -m benchmarks.instructions`: how many vector instructions each kernel takes.

Disassembles the built library with objdump and counts, in the main loop of every kernel, the
instructions that name a vector or mask register: arithmetic, loads and stores alike. Nothing is
timed, so the numbers of two builds can be compared on a busy machine. The fused functions of
benchmarks.works are compiled anew and counted in the same way. FUSEDGRAD_CPU_CAPABILITY chooses
another instruction set.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.report import DOCS, markdown, write_between_markers
from benchmarks.works import WORKS
from fusedgrad import _C

CAPABILITIES = {"avx512": 64, "avx2": 32, "baseline": 16}  # bytes of a vector
WIDTH = {"float": 4, "double": 8}
ELEMENTS = 16  # that a count is about
MOST_STEP = 1024  # in bytes; no loop is unrolled that far

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t(\S+) *(.*)$")
_KERNEL = re.compile(
    r"Loops<fusedgrad::cpu::detail::\w+<fusedgrad::math::"
    r"(?P<functor>\w+)(?:<(?P<twice>-?\d+)> ?)?>, (?P<type>float|double)>::(?P<capability>\w+)\("
)
_TARGET = re.compile(r"^([0-9a-f]+) <")
_VECTOR = re.compile(r"%(?:[xyz]mm\d|k[0-7])")
_STEP = re.compile(r"^\$(0x[0-9a-f]+),%r")
_SLOW = ("vdiv", "vsqrt", "div", "sqrt")  # of the packed forms alone, whose unit is not pipelined


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str

    @property
    def is_vector(self) -> bool:
        return bool(_VECTOR.search(self.operands))

    @property
    def is_slow(self) -> bool:
        return self.name.startswith(_SLOW) and self.name.endswith(("ps", "pd"))

    @property
    def target(self) -> int | None:
        found = _TARGET.match(self.operands)
        return int(found[1], 16) if found and self.name.startswith("j") else None

    @property
    def step(self) -> int:
        """How far a byte offset is moved, 0 if this moves none."""
        found = _STEP.match(self.operands)
        if found is None or self.name not in ("add", "sub"):
            return 0
        value = int(found[1], 16)
        value -= 2**64 if value >= 2**63 else 0
        return value if self.name == "add" else -value


@dataclass(frozen=True)
class Loop:
    """What runs once for each of some elements."""

    instructions: Sequence[Instruction]
    elements: int  # of each operand, in one turn

    @property
    def vector_count(self) -> float:
        """Vector instructions for 16 elements."""
        return sum(i.is_vector for i in self.instructions) * ELEMENTS / self.elements

    @property
    def slow_count(self) -> float:
        """Divisions and square roots for 16 elements."""
        return sum(i.is_slow for i in self.instructions) * ELEMENTS / self.elements


@dataclass(frozen=True)
class Counted:
    """One kernel and the loops that it runs on ordinary operands: none if it is not vectorised."""

    title: str
    loops: Sequence[Loop]


def functions(disassembly: str) -> Iterator[tuple[str, list[Instruction]]]:
    """The name and the instructions of each."""
    name, instructions = "", list[Instruction]()
    for line in disassembly.splitlines():
        if found := _FUNCTION.match(line):
            name, instructions = found[1], []
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(int(found[1], 16), found[2], found[3]))
        elif name:
            yield name, instructions
            name = ""
    if name:
        yield name, instructions


def main_loops(
    instructions: Sequence[Instruction], type_name: str, vector_bytes: int
) -> list[Loop]:
    """The innermost loops that move whole vectors.

    A kernel of tiles (cpu/block.h) has one over these and one over the vectors that are left.
    A kernel in two loops (cpu/block.h) has a check, both loops for any operands, and behind them
    both for ordinary ones: of these the check and the last two, each over one vector of floats.
    Where all logarithms are one, a loop of a single store fills in for the first.
    """
    index = {instruction.address: i for i, instruction in enumerate(instructions)}
    pairs = [(index.get(i.target or -1, len(index)), at) for at, i in enumerate(instructions)]
    loops = [(start, at) for start, at in pairs if start <= at]
    found = []
    for start, end in loops:
        if any(start <= s and e <= end and (s, e) != (start, end) for s, e in loops):
            continue
        body = instructions[start : end + 1]
        steps = [i.step for i in body if vector_bytes <= i.step <= MOST_STEP]
        if steps and any(i.is_vector for i in body):
            # The greatest: a tile's index moves by its elements, its pointers by their bytes.
            found.append(Loop(body, max(steps) // WIDTH[type_name]))
    found = [loop for loop in found if sum(i.is_vector for i in loop.instructions) > 1] or found
    if len(found) < 3:
        return [max(found, key=lambda loop: (loop.elements, loop.vector_count))] if found else []
    three = (min(found, key=lambda loop: loop.vector_count), *found[-2:])
    return [Loop(loop.instructions, vector_bytes // WIDTH[type_name]) for loop in three]


def disassembled(path: Path) -> str:
    """What objdump says of a shared object.

    Raises:
        SystemExit: there is no objdump, or it failed.
    """
    objdump = shutil.which("objdump")
    if objdump is None:
        sys.exit("benchmarks.instructions: objdump is not on PATH; it comes with binutils")
    command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"benchmarks.instructions: {done.stderr.strip()}")
    return done.stdout


def library_kernels(disassembly: str, type_name: str, capability: str) -> Iterator[Counted]:
    """The kernels of the library in one type and for one instruction set."""
    for name, instructions in functions(disassembly):
        found = _KERNEL.search(name)
        if not found or (found["type"], found["capability"]) != (type_name, capability):
            continue
        title = found["functor"]
        if found["twice"]:
            title += f" {int(found['twice']) / 2:g}"
        yield Counted(title, main_loops(instructions, type_name, CAPABILITIES[capability]))


def fused_kernels(type_name: str, capability: str) -> Iterator[Counted]:
    """The value's and the gradients' kernel of each fused function, compiled anew."""
    dtype = torch.float32 if type_name == "float" else torch.float64
    for work in WORKS:
        if work.kind == "operation":
            continue
        inputs = [make(2).to(dtype) for make in work.inputs]
        wanted = [x.requires_grad_() for x in inputs[: work.derivatives]]
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"FUSEDGRAD_CACHE_DIR": folder}),
        ):
            result = work.ours(*inputs)
            (value,) = Path(folder).glob("*.so")
            torch.autograd.grad(result.sum(), wanted)
            (gradients,) = set(Path(folder).glob("*.so")) - {value}
            for title, path in ((work.name, value), (f"{work.name}, backward", gradients)):
                (code,) = (c for name, c in functions(disassembled(path)) if name == "block")
                yield Counted(title, main_loops(code, type_name, CAPABILITIES[capability]))


def table(kernel: str, kernels: Iterable[Counted]) -> str:
    """A line for each."""
    rows = []
    for counted in kernels:
        slow = sum(loop.slow_count for loop in counted.loops)
        vector = sum(loop.vector_count for loop in counted.loops)
        cells = [
            f"{vector:.4g}" if counted.loops else "not vectorised",
            f"{slow:.4g}" if slow else "",
        ]
        rows.append([counted.title, *cells])
    return markdown([kernel, f"vector instructions, {ELEMENTS} elements", "divisions, roots"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.instructions")
    parser.add_argument("--type", choices=WIDTH, default="float")
    parser.add_argument("--write", action="store_true", help="put the tables in docs/speed.md")
    options = parser.parse_args(arguments)
    kind = (options.type, _C.cpu_capability())
    if options.write and kind != ("float", "avx512"):
        parser.error("--write: docs/speed.md shows the counts of float on a processor with AVX-512")
    library = library_kernels(disassembled(Path(_C.__file__)), *kind)
    tables = [
        table("kernel", sorted(library, key=lambda counted: counted.title)),
        table("fused function", fused_kernels(*kind)),
    ]
    text = "\n\n".join(tables)
    print(text)
    if options.write:
        write_between_markers("instructions", text, DOCS / "speed.md")


if __name__ == "__main__":
    main()
