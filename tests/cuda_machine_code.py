"""What nvcc made of a kernel: its machine code, read from the disassembly of a cubin.

The fast path of a kernel is a path from its entry to its end on which every access of global
memory to the operands is 128 bits wide; its instructions are counted along that path.
"""

import functools
import re
from dataclasses import dataclass

_SECTION = re.compile(r"^\.text\.(\S+):$", re.M)
_LABEL = re.compile(r"^(\.L_x?_?\w+):$")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;$")
_TARGET = re.compile(r"\((\.L_\w+)\)")


@dataclass(frozen=True)
class Instruction:
    guard: str
    opcode: str
    operands: str

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def target(self) -> str | None:
        found = _TARGET.search(self.operands)
        return found.group(1) if found else None


@dataclass(frozen=True)
class Kernel:
    """One kernel's instructions, and where each label stands among them."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def uses_local_memory(self) -> bool:
        """Whether it spills or has an array that did not fit in registers."""
        return any(i.base in ("LDL", "STL") for i in self.instructions)

    def registers(self) -> int:
        """The registers of a thread: the highest that an instruction names, and those before."""
        named = re.findall(
            r"\bR(\d+)((?:\.64)?)", " ".join(i.operands for i in self.instructions)
        )
        return max(int(number) for number, _ in named) + 1

    def full_tile(self) -> tuple[Instruction, ...]:
        """The longest path from the entry to the end that stores 128 bits and nothing narrower.

        Raises ValueError if there is none: the accesses are narrower, or there is a loop.
        """
        code = self.instructions

        @functools.cache
        def longest(at: int, stored: bool) -> tuple[int, ...] | None:
            instruction = code[at]
            if instruction.base in ("STG", "LDG") and ".128" not in instruction.opcode:
                return None
            stored = stored or (instruction.base == "STG" and ".128" in instruction.opcode)
            if instruction.base == "EXIT" and not instruction.guard:
                return (at,) if stored else None
            following = [at + 1]
            if instruction.base == "BRA":
                assert instruction.target is not None
                following = [self.labels[instruction.target]]
                if instruction.guard:
                    following.append(at + 1)
            rests = [longest(n, stored) for n in following if n > at]
            whole = [(at, *rest) for rest in rests if rest is not None]
            return max(whole, key=len, default=None)

        found = longest(0, False)
        if found is None:
            raise ValueError(f"{self.name}: no path of 128-bit accesses")
        return tuple(code[i] for i in found)


def kernels(disassembly: str) -> dict[str, Kernel]:
    """The kernels in what ``nvdisasm -c`` printed, by their mangled names."""
    parts = _SECTION.split(disassembly)[1:]
    return {
        name: _kernel(name, text) for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _kernel(name: str, text: str) -> Kernel:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            guard, opcode, operands = found.groups()
            instructions.append(Instruction(guard or "", opcode, operands))
    return Kernel(name, tuple(instructions), labels)
