"""What nvcc made of the kernels: their machine code, read from the disassembly of a cubin.

``python tests/cuda_machine_code.py`` prints the table that README.md and the test show.
"""

import functools
import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cuda_backend import library
from cuda_emulator.compile import alone, find_nvcc

SOURCES = ("sigmoid", "tanh", "pow", "logistic_loss", "jets")
ARCHITECTURES = ("80", "90", "100", "120")
FLAGS = ("-cubin", "-Xptxas", "-v")

_BYTES = {"d": 8, "f": 4, "6__half": 2, "13__nv_bfloat16": 2}
_DTYPES = {"d": "float64", "f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
_NAME = re.compile(
    r"^_ZN9fusedgrad4cuda\d+(?P<kernel>\w+?)_kernelI(?:NS_4math\d+(?P<functor>[A-Za-z]+?\d?)"
    r"(?:ILi(?P<twice>n?\d+)EE|I(?:[fd]|NS2_5BriefILi\d+EEE)E)?E)"
    r"NS0_\d+(?P<kind>Contiguous|Strided)I(?P<dtype>d|f|6__half|13__nv_bfloat16)"
    r"Li(?P<outputs>\d)ELi(?P<inputs>\d+)E"
)
_SECTION = re.compile(r"^\.text\.(\S+):$", re.M)
_LABEL = re.compile(r"^(\.L_\w+):$")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;$")
_COMPUTING = {"FFMA", "FMUL", "FADD", "MUFU", "DFMA", "DMUL", "DADD", "FMNMX", "FSETP", "DSETP"}
_PREDICATE = re.compile(r"!?U?P\d")
_TARGET = re.compile(r"\((\.L_\w+)\)")
_RESOURCES = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.S,
)


@dataclass(frozen=True)
class Instruction:
    opcode: str
    guard: str
    operands: str

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def wide(self) -> bool:
        """A 128-bit access of global memory."""
        return self.base in ("LDG", "STG") and ".128" in self.opcode

    @property
    def narrow(self) -> bool:
        """A narrower one."""
        return self.base in ("LDG", "STG") and ".128" not in self.opcode

    @property
    def conditional(self) -> bool:
        """Also of a branch on a uniform predicate, which is its operand."""
        return bool(self.guard) or _PREDICATE.match(self.operands) is not None

    @property
    def target(self) -> str | None:
        found = _TARGET.search(self.operands)
        return found.group(1) if found and self.base == "BRA" else None


@dataclass(frozen=True)
class Kernel:
    """One kernel's instructions, and what ptxas said of its resources."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    registers: int
    stack_bytes: int
    spill_bytes: int

    @functools.cached_property
    def parts(self) -> dict[str, str]:
        """What the mangled name says: kernel, functor, twice the exponent, kind, dtype, arity."""
        found = _NAME.match(self.name)
        return {k: v or "" for k, v in found.groupdict().items()} if found else {}

    @property
    def dtype(self) -> str:
        return _DTYPES[self.parts["dtype"]]

    @property
    def title(self) -> str:
        """The functor, its exponent if it has one, and whether the results are summed."""
        twice = self.parts["twice"].replace("n", "-")
        exponent = f" {int(twice) / 2:g}" if twice else ""
        summed = " sum" if self.parts["kernel"] == "reduction" else ""
        return self.parts["functor"] + exponent + summed

    def local_memory(self) -> bool:
        return any(i.base in ("LDL", "STL") for i in self.instructions)

    def full_tile(self) -> tuple[Instruction, ...]:
        """What a thread runs for a full tile of operands that are no scalars: the longest path on
        which every access is 128 bits wide, through the kernel or once round a sum's loop.

        Raises ValueError if there is none.
        """
        if self.parts["kernel"] == "reduction":
            loops = [self._longest(start, end) for start, end in self._loops()]
        else:
            loops = [self._longest(0, None)]
        found = max((path for path in loops if path is not None), key=len, default=None)
        if found is None:
            raise ValueError(f"{self.name}: no path of 128-bit accesses alone")
        return found

    def instructions_per_element(self) -> float:
        path = self.full_tile()
        loads = sum(i.wide and i.base == "LDG" for i in path)
        elements = loads / int(self.parts["inputs"]) * 16 / _BYTES[self.parts["dtype"]]
        # sm_120, whose doubles are slow, waits for each in NOPs.
        return sum(i.base != "NOP" for i in path) / elements

    def loops_that_load(self) -> list[int]:
        """How many instructions read global memory in each loop that has any."""
        loops = [self.instructions[start : end + 1] for start, end in self._loops()]
        loads = [sum(i.base == "LDG" for i in loop) for loop in loops]
        return [count for count in loads if count > 0]

    def bits_of_loads(self) -> list[int]:
        """How many bits each instruction reads that reads global memory."""
        return [bits for run in self._runs_of_loads() for bits in run]

    def widest_loads(self) -> list[int]:
        """The same of those that read most without a branch between them."""
        return max(self._runs_of_loads(), key=sum)

    def _runs_of_loads(self) -> list[list[int]]:
        runs: list[list[int]] = [[]]
        starts = set(self.labels.values())
        for at, instruction in enumerate(self.instructions):
            if at in starts or instruction.base == "BRA":
                runs.append([])
            if instruction.base == "LDG":
                width = re.search(r"\.[US]?(128|64|16|8)\b", instruction.opcode)
                runs[-1].append(int(width[1]) if width else 32)
        return runs

    def round_trips(self) -> int:
        """How often a thread may wait for memory before it ends or goes round a loop: the most
        groups of loads, between which something is computed, on a path through the kernel."""
        code = self.instructions

        # From an instruction, where something was computed since the last load or not
        most = {(len(code), before): 0 for before in (False, True)}
        for at in range(len(code) - 1, -1, -1):
            instruction = code[at]
            loads = instruction.base == "LDG"
            following = [at + 1] if instruction.target is None or instruction.conditional else []
            if instruction.target is not None:
                following.append(self.labels[instruction.target])
            for before in (False, True):
                after = not loads and (before or instruction.base in _COMPUTING)
                rests = [most[n, after] for n in following if n > at]
                most[at, before] = (before and loads) + max(rests, default=0)
        return most[0, True]

    def _loops(self) -> list[tuple[int, int]]:
        targets = ((at, i.target) for at, i in enumerate(self.instructions) if i.target)
        pairs = ((self.labels[target], at) for at, target in targets)
        return [(start, at) for start, at in pairs if start <= at]

    def _longest(self, start: int, end: int | None) -> tuple[Instruction, ...] | None:
        """From an instruction to another (to an EXIT, if None) without going back: the path with
        most accesses that takes least from one load or store to the next and most between them,
        where it computes. Where a thread is asked for how many elements there are, it takes more
        to load and to store as many."""
        code = self.instructions
        # From an instruction, which a wide access and a store came before or not: the accesses,
        # minus what it takes to load and to store, and the length of the best path; its loads, and
        # where it goes next.
        paths: dict[tuple[int, int], tuple[tuple[int, int, int], int, tuple[int, int] | None]] = {}
        for at in range(len(code) - 1, start - 1, -1):
            instruction = code[at]
            if instruction.narrow:
                continue
            load = int(instruction.wide and instruction.base == "LDG")
            store = int(instruction.wide and instruction.base == "STG")
            exits = end is None and instruction.base == "EXIT"
            following = [at + 1] if instruction.target is None or instruction.conditional else []
            if instruction.target is not None:
                following.append(self.labels[instruction.target])
            for before in range(3):
                after = 2 if store else max(before, load)
                rests = [(n, after) for n in following if n > at and (n, after) in paths]
                if at != end and not (exits and not instruction.guard) and rests:
                    best = max(rests, key=lambda rest: paths[rest][0])
                    (accesses, moving, length), loads, _ = paths[best]
                    moving -= loads > 0 or before == 2
                    value = accesses + load + store, moving, length + 1
                    paths[at, before] = value, loads + load, best
                elif (at == end or exits) and after:
                    paths[at, before] = (load + store, -(before == 2), 1), load, None
        step: tuple[int, int] | None = (start, 0)
        if step not in paths:
            return None
        path = []
        while step is not None:
            path.append(code[step[0]])
            step = paths[step][2]
        return tuple(path)


def parse(disassembly: str, resources: str) -> list[Kernel]:
    """The kernels in what ``nvdisasm -c`` and ``ptxas -v`` printed."""
    usage = {name: tuple(map(int, rest)) for name, *rest in _RESOURCES.findall(resources)}
    parts = _SECTION.split(disassembly)[1:]
    return [
        _kernel(name, text, usage[name]) for name, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _kernel(name: str, text: str, usage: Sequence[int]) -> Kernel:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            guard, opcode, operands = found.groups()
            instructions.append(Instruction(opcode, guard or "", operands))
    stack, stores, loads, registers = usage
    return Kernel(name, tuple(instructions), labels, registers, stack, stores + loads)


def find_nvdisasm() -> Path:
    """The toolkit's, or that of the PyPI package nvidia-cuda-nvdisasm."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / "nvdisasm"
    for path in (find_nvcc().parent / "nvdisasm", packages):
        if path.is_file():
            return path
    raise FileNotFoundError("no nvdisasm: pip install nvidia-cuda-nvdisasm")


@functools.cache
def kernels_of(source: str, architecture: str) -> list[Kernel]:
    """What ptxas makes of the PTX that the emulated device runs; kept beside it."""
    (ptx,) = library(source, architecture).ptx
    disassembly, resources = (ptx.with_suffix(f".{kind}") for kind in ("sass", "resources"))
    with alone(ptx):
        if not resources.is_file():
            cubin = ptx.with_suffix(".cubin")
            log = _run([find_nvcc(), *FLAGS, f"-arch=sm_{architecture}", ptx, "-o", cubin])
            disassembly.write_text(_run([find_nvdisasm(), "-c", cubin]))
            cubin.unlink()
            resources.write_text(log)
    found = parse(disassembly.read_text(), resources.read_text())
    return [kernel for kernel in found if kernel.parts]


def kernels_of_ptx(ptx: bytes, architecture: str) -> dict[str, Kernel]:
    """What ptxas makes of the kernels of generated code, by their names."""
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "fused.ptx", Path(folder) / "fused.cubin"
        source.write_bytes(ptx.rstrip(b"\0"))
        log = _run([find_nvcc(), *FLAGS, f"-arch=sm_{architecture}", source, "-o", cubin])
        found = parse(_run([find_nvdisasm(), "-c", cubin]), log)
    return {kernel.name: kernel for kernel in found}


def _run(command: Sequence[str | Path]) -> str:
    """What a command printed, on both streams."""
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def compiled(
    architectures: Iterable[str] = ARCHITECTURES, sources: Sequence[str] = SOURCES
) -> dict[str, list[Kernel]]:
    """Every kernel that walks elements, by architecture."""
    jobs = [(source, architecture) for architecture in architectures for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda job: kernels_of(*job), jobs)
    kernels: dict[str, list[Kernel]] = {}
    for (_, architecture), some in zip(jobs, found, strict=True):
        kernels.setdefault(architecture, []).extend(some)
    return kernels


# PyTorch 2.14.1's own kernels for sm_90 and float32, counted in the same way.
PYTORCH = {
    "Sigmoid": "21.8",
    "SigmoidBackward": "6.1 (from the result)",
    "Tanh": "17.9",
    "TanhBackward": "5.1 (from the result)",
    "PowHalfInteger 2": "3.5",
    "PowHalfInteger 3": "4.5",
    "PowHalfInteger -2": "13.5",
    "PowScalar": "64.6 to 88.6",
    "BinaryCrossEntropy": "72 to 77",
    "BinaryCrossEntropyBackward": "18.8",
    "BinaryCrossEntropyWithLogits sum": "5 kernels and a reduction",
    "BinaryCrossEntropyWithLogitsBackward": "3 kernels",
}


# Of these the compiler drops the base, which is not read, and predicates the load of a scalar.
READ_LITTLE = {"PowHalfInteger 0", "PowHalfIntegerBackward 0", "PowHalfIntegerBackward 1"}


def table(kernels: dict[str, list[Kernel]]) -> str:
    """Instructions an element / registers of the 128-bit kernels, an architecture a column."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for architecture, some in kernels.items():
        for kernel in some:
            if kernel.parts["kind"] == "Contiguous" and kernel.title not in READ_LITTLE:
                cell = f"{kernel.instructions_per_element():.1f} / {kernel.registers}"
                rows.setdefault((kernel.title, kernel.dtype), {})[architecture] = cell
    lines = [f"{'kernel':45} {'dtype':8} " + " ".join(f"{'sm_' + a:>11}" for a in kernels)]
    lines[0] += "  PyTorch (float32, sm_90)"
    for (title, dtype), cells in sorted(rows.items()):
        own = PYTORCH.get(title, "") if dtype == "float32" else ""
        columns = " ".join(f"{cells[a]:>11}" for a in kernels)
        lines.append(f"{title:45} {dtype:8} {columns}  {own}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(compiled()))
