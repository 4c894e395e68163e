"""`python -m benchmarks.instructions`: how many vector instructions each kernel takes.

Disassembles the built library with objdump and counts, in the main loop of every kernel, the
instructions that name a vector or mask register: arithmetic, loads and stores alike. Nothing is
timed, so the numbers of two builds can be compared on a busy machine. `--fused` counts the kernels
of the functions of fusedgrad.activations and of the first notebook instead, compiled anew.
"""

import argparse
import inspect
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

import fusedgrad
from benchmarks.report import markdown
from fusedgrad import _C, activations

CAPABILITIES = {"avx512": 64, "avx2": 32, "baseline": 16}  # bytes of a vector
WIDTH = {"float": 4, "double": 8}
ELEMENTS = 16  # that a count is about

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
    """The main loop of one kernel."""

    title: str
    type_name: str
    capability: str
    instructions: Sequence[Instruction]

    @property
    def elements(self) -> int:
        """Of each operand, in one turn."""
        return max(i.step for i in self.instructions) // WIDTH[self.type_name]

    @property
    def vector_count(self) -> float:
        """Vector instructions for 16 elements."""
        return sum(i.is_vector for i in self.instructions) * ELEMENTS / self.elements

    @property
    def slow_count(self) -> float:
        """Divisions and square roots for 16 elements."""
        return sum(i.is_slow for i in self.instructions) * ELEMENTS / self.elements


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


def main_loop(instructions: Sequence[Instruction], vector_bytes: int) -> Sequence[Instruction]:
    """The innermost loop that moves whole vectors, the longest if there are several; else none."""
    index = {instruction.address: i for i, instruction in enumerate(instructions)}
    pairs = [(index.get(i.target or -1, len(index)), at) for at, i in enumerate(instructions)]
    loops = [(start, at) for start, at in pairs if start <= at]
    innermost = [
        (start, end)
        for start, end in loops
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in loops)
    ]
    bodies = (instructions[start : end + 1] for start, end in innermost)
    whole = [b for b in bodies if max(i.step for i in b) >= vector_bytes]
    return max(whole, key=len, default=())


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


def library_loops(disassembly: str, type_name: str, capability: str) -> Iterator[Loop]:
    """The kernels of the library in one type and for one instruction set."""
    for name, instructions in functions(disassembly):
        found = _KERNEL.search(name)
        if not found or (found["type"], found["capability"]) != (type_name, capability):
            continue
        loop = main_loop(instructions, CAPABILITIES[capability])
        title = found["functor"]
        if found["twice"]:
            title += f" {int(found['twice']) / 2:g}"
        yield Loop(title, type_name, capability, loop)


def notebook(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The function of two variables of the first notebook."""
    return fusedgrad.sigmoid(x**2 + z) + fusedgrad.tanh(x**3 * z**2)


def fused_loops(type_name: str, capability: str) -> Iterator[Loop]:
    """The value's and the gradients' kernel of each fused function."""
    dtype = torch.float32 if type_name == "float" else torch.float64
    gallery = [getattr(activations, name) for name in activations.__all__]
    for function in (fusedgrad.fuse(notebook), *gallery):
        parameters = inspect.signature(function).parameters.values()
        count = sum(p.default is inspect.Parameter.empty for p in parameters)
        tensors = [torch.full((2,), 0.5, dtype=dtype, requires_grad=True) for _ in range(count)]
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict(os.environ, {"FUSEDGRAD_CACHE_DIR": folder}),
        ):
            seen: set[Path] = set()
            result = function(*tensors)
            for title in (function.__name__, f"{function.__name__}, gradients"):
                for path in set(Path(folder).glob("*.so")) - seen:
                    seen.add(path)
                    (code,) = (c for name, c in functions(disassembled(path)) if name == "block")
                    loop = main_loop(code, CAPABILITIES[capability])
                    yield Loop(title, type_name, capability, loop)
                if len(seen) == 1:
                    result.sum().backward()


def table(loops: Iterable[Loop]) -> str:
    """A line for each kernel, sorted by title."""
    rows = []
    for loop in sorted(loops, key=lambda loop: loop.title):
        if loop.instructions:
            slow = loop.slow_count
            cells = [f"{loop.vector_count:.4g}", f"{slow:.4g}" if slow else ""]
        else:
            cells = ["not vectorised", ""]
        rows.append([loop.title, *cells])
    heading = ["kernel", f"vector instructions for {ELEMENTS} elements", "divisions, roots of them"]
    return markdown(heading, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.instructions")
    parser.add_argument("--fused", action="store_true", help="count fused functions' kernels")
    parser.add_argument("--type", choices=WIDTH, default="float")
    parser.add_argument("--capability", choices=CAPABILITIES, default=_C.cpu_capability())
    options = parser.parse_args(arguments)
    kind = (options.type, options.capability)
    if options.fused:
        loops = list(fused_loops(*kind))
    else:
        loops = list(library_loops(disassembled(Path(_C.__file__)), *kind))
    print(table(loops))


if __name__ == "__main__":
    main()
