"""Parser of PTX as nvcc and NVRTC write it.

A kernel becomes a flat list of instructions. Calls of device functions are inlined while parsing,
and a predicated instruction becomes a branch around it, so that what runs the list meets neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath

from .errors import UnsupportedInstructionError

SIZES = {
    "pred": 1,
    **{f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64, 128)},
    "f16": 2,
    "bf16": 2,
    "f16x2": 4,
    "bf16x2": 4,
    "f32": 4,
    "f64": 8,
}


@dataclass(frozen=True)
class Instruction:
    """One instruction, its text and the source line it came from."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    text: str
    line: str
    predicate: str | None = None
    negated: bool = False

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The type modifiers, in order."""
        return tuple(m for m in self.modifiers if m in SIZES)

    def has(self, *names: str) -> bool:
        """Whether any of these modifiers is there."""
        return any(name in self.modifiers for name in names)

    def one_of(self, *names: str) -> str:
        """The first of these modifiers that is there, or ''."""
        return next((m for m in self.modifiers if m in names), "")


@dataclass
class Variable:
    """A variable in a state space: offset in bytes from the start of the space, size."""

    offset: int
    size: int


@dataclass
class Kernel:
    """An entry point: what it declares and what it executes."""

    name: str
    parameters: dict[str, Variable] = field(default_factory=dict)
    parameter_bytes: int = 0
    registers: dict[str, str] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    shared: dict[str, Variable] = field(default_factory=dict)
    shared_bytes: int = 0
    local: dict[str, Variable] = field(default_factory=dict)
    local_bytes: int = 0
    max_threads: int = 1024


@dataclass(frozen=True)
class ModuleVariable:
    """A variable at module scope, in .global or .const."""

    name: str
    space: str
    alignment: int
    size: int
    initial: bytes
    # (offset, symbol, addend) of pointers in the initial value
    pointers: tuple[tuple[int, str, int], ...] = ()


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_ENTRY = re.compile(
    r"\.(entry|func)\b\s*(?:\(([^)]*)\))?\s*([\w$]+)\s*(?:\(([^)]*)\))?([^{;]*)([{;])", re.S
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\s+)?(?:\.(?:global|shared|local|const|param)\s+)?(?:\.align\s+\d+\s+)?"
    r"(?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?"
)
_VARIABLE = re.compile(
    r"\.(?P<space>global|const|shared|local|param)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"(?:\.attribute\([^)]*\)\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)"
    r"(?P<dims>(?:\[\d*\])*)(?:\s*=\s*(?P<init>.*))?",
    re.S,
)
_LABEL = re.compile(r"([\w$]+):(?!:)")
_PREDICATE = re.compile(r"@(!?)(%[\w$]+)\s+")
_NAME = re.compile(r"[%$A-Za-z_][\w$]*")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:.*?inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?", re.S)
_TOOLKIT = re.compile(r"/(targets/[\w-]+|nvidia/\w+|cuda[\w.-]*)/include/")


def align(offset: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // alignment) * alignment


def split_operands(text: str) -> tuple[str, ...]:
    """Split at the commas outside brackets."""
    if not any(bracket in text for bracket in "{[("):
        plain = tuple(part.strip() for part in text.split(","))
        return plain if plain[-1] else plain[:-1]
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return (*parts, last) if last else tuple(parts)


@dataclass(frozen=True)
class _Function:
    kind: str
    results: str
    parameters: str
    attributes: str
    start: int


class Module:
    """The PTX of one translation unit; kernels are parsed when they are asked for."""

    def __init__(self, text: str) -> None:
        self.text = _COMMENT.sub("", text)
        # number -> name, and whether the file is the toolkit's and not the user's
        self.files = {
            number: (PurePath(path).name, _TOOLKIT.search(path) is not None)
            for number, path in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.M)
        }
        self.functions: dict[str, _Function] = {}
        outside, position = [], 0
        for match in _ENTRY.finditer(self.text):
            if match.start() < position:
                continue
            kind, results, name, parameters, attributes, opening = match.groups()
            outside.append(self.text[position : match.start()])
            position = match.end()
            if opening == "{":
                self.functions[name] = _Function(
                    kind, results or "", parameters or "", attributes, match.end()
                )
                position = self._end_of_scope(match.end())
        outside.append(self.text[position:])
        self.variables: dict[str, ModuleVariable] = {}
        self.shared: dict[str, tuple[int, int]] = {}  # name -> (alignment, size); 0 is dynamic
        self._read_variables("\n".join(outside))
        # what the interpreter made of a kernel, by its name and the way it was translated
        self.programs: dict[tuple[str, str | None], object] = {}

    @property
    def kernel_names(self) -> list[str]:
        """The entry points of the module."""
        return [name for name, function in self.functions.items() if function.kind == "entry"]

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name, parsed anew: its instructions take much memory."""
        return _Parser(self, name).kernel

    def body(self, name: str) -> str:
        """The text between the braces of a function."""
        start = self.functions[name].start
        return self.text[start : self._end_of_scope(start) - 1]

    def _end_of_scope(self, start: int) -> int:
        depth = 1
        for match in re.compile(r"[{}]").finditer(self.text, start):
            depth += 1 if match.group() == "{" else -1
            if depth == 0:
                return match.end()
        raise UnsupportedInstructionError("PTX with unbalanced braces")

    def _read_variables(self, text: str) -> None:
        for statement in text.split(";"):
            match = _VARIABLE.search(statement)
            if match is None or match["space"] in ("local", "param"):
                continue
            unit = SIZES[match["type"]]
            size = unit
            for count in re.findall(r"\[(\d*)\]", match["dims"]):
                size *= int(count or 0)
            alignment = int(match["align"] or unit)
            if match["space"] == "shared":
                self.shared[match["name"]] = (alignment, size)
                continue
            initial, pointers = _initial_value(match["init"] or "", match["type"], unit)
            if not size:  # extern array, or sized by its initial value
                size = len(initial)
            self.variables[match["name"]] = ModuleVariable(
                match["name"],
                match["space"],
                alignment,
                size,
                initial.ljust(size, b"\0"),
                pointers,
            )


def _initial_value(
    text: str, kind: str, unit: int
) -> tuple[bytes, tuple[tuple[int, str, int], ...]]:
    values, pointers = bytearray(), []
    for item in re.findall(r"[^\s,{}]+", text):
        if re.fullmatch(r"0[fFdD][0-9a-fA-F]+", item):
            values += int(item[2:], 16).to_bytes(unit, "little")
        elif re.fullmatch(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)U?", item):
            values += (int(item.rstrip("U"), 0) % (1 << 8 * unit)).to_bytes(unit, "little")
        else:
            match = re.fullmatch(r"(?:generic\()?([\w$]+)\)?(?:\+(\d+))?", item)
            if match is None or unit != 8:
                raise UnsupportedInstructionError(f"initial value {item} of a .{kind} variable")
            pointers.append((len(values), match[1], int(match[2] or 0)))
            values += bytes(8)
    return bytes(values), tuple(pointers)


class _Parser:
    """Reads one kernel, and the bodies of the device functions it calls."""

    def __init__(self, module: Module, name: str) -> None:
        self.module = module
        self.kernel = Kernel(name)
        self.copies = 0
        self.inlining: list[str] = []
        self.parents: dict[tuple[str, ...], tuple[str, ...]] = {}
        function = module.functions[name]
        offset = 0
        for match in _PARAMETER.finditer(function.parameters):
            size = SIZES[match["type"]] * int(match["count"] or 1)
            offset = align(offset, int(match["align"] or SIZES[match["type"]]))
            self.kernel.parameters[match["name"]] = Variable(offset, size)
            offset += size
        self.kernel.parameter_bytes = offset
        limit = re.search(
            r"\.(?:maxntid|reqntid)\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", function.attributes
        )
        if limit:
            self.kernel.max_threads = int(limit[1]) * int(limit[2] or 1) * int(limit[3] or 1)
        for symbol, (alignment, size) in module.shared.items():
            if size and re.search(rf"\b{re.escape(symbol)}\b", module.body(name)):
                self._declare("shared", symbol, alignment, size)
        self._read(module.body(name), "", {})
        dynamic = align(self.kernel.shared_bytes, 16)
        for symbol, (_, size) in module.shared.items():
            if not size:
                self.kernel.shared[symbol] = Variable(dynamic, 0)

    def _declare(self, space: str, name: str, alignment: int, size: int) -> None:
        table, total = (
            (self.kernel.shared, "shared_bytes")
            if space == "shared"
            else (self.kernel.local, "local_bytes")
        )
        offset = align(getattr(self.kernel, total), alignment)
        table[name] = Variable(offset, size)
        setattr(self.kernel, total, offset + size)

    def _read(self, text: str, prefix: str, parameters: dict[str, str]) -> None:
        """Append the instructions of a body; prefix keeps the names of an inlined copy apart."""
        scopes: list[dict[str, str]] = [dict(parameters)]
        line, position, end = "", 0, len(text)
        instructions = self.kernel.instructions

        def rename(name: str) -> str:
            for scope in reversed(scopes):
                if name in scope:
                    return scope[name]
            return name

        while True:
            while position < end and text[position].isspace():
                position += 1
            if position >= end:
                break
            if text[position] == "{":
                scopes.append({})
                position += 1
                continue
            if text[position] == "}":
                scopes.pop()
                position += 1
                continue
            if text.startswith((".loc\t", ".loc "), position):
                stop = text.find("\n", position)
                line = self._location(text[position : stop if stop >= 0 else end])
                position = stop if stop >= 0 else end
                continue
            label = _LABEL.match(text, position)
            if label:
                self.kernel.labels[prefix + label[1]] = len(instructions)
                position = label.end()
                continue
            stop = text.find(";", position)
            statement = " ".join(text[position : stop if stop >= 0 else end].split())
            position = (stop if stop >= 0 else end) + 1
            if not statement:
                continue
            if statement.startswith(".reg"):
                self._registers(statement, scopes, prefix)
            elif statement.startswith("."):
                self._variable(statement, scopes, prefix)
            else:
                self._instruction(statement, rename, line, prefix)

    def _location(self, text: str) -> str:
        """'file:line' of a .loc, followed by the user's line it was inlined at, if any."""
        match = _LOC.match(text)
        if match is None:
            return ""
        place, parent = match.groups()[:3], match.groups()[3:]
        if parent[0] is not None:
            self.parents[place] = parent
        else:
            self.parents.pop(place, None)
        chain, seen = [place], {place}
        while chain[-1] in self.parents and self.parents[chain[-1]] not in seen:
            chain.append(self.parents[chain[-1]])
            seen.add(chain[-1])
        files = self.module.files
        own = [frame for frame in chain if frame[0] in files and not files[frame[0]][1]] or chain
        inner, outer = own[0], own[-1]
        name = f"{files.get(inner[0], ('?', False))[0]}:{inner[1]}"
        if outer is not inner:
            name += f" (inlined at {files.get(outer[0], ('?', False))[0]}:{outer[1]})"
        return name

    def _registers(self, statement: str, scopes: list[dict[str, str]], prefix: str) -> None:
        match = re.match(r"\.reg\s*\.(\w+)\s+(.*)", statement)
        assert match is not None, statement
        kind, names = match.groups()
        for item in names.split(","):
            many = re.fullmatch(r"\s*(%?[\w$]+)<(\d+)>\s*", item)
            found = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [item.strip()]
            for name in found:
                unique = name
                if prefix or len(scopes) > 1:
                    self.copies += not many
                    unique = f"%{prefix}{name.lstrip('%')}" + ("" if many else f"@{self.copies}")
                    scopes[-1][name] = unique
                self.kernel.registers[unique] = kind

    def _variable(self, statement: str, scopes: list[dict[str, str]], prefix: str) -> None:
        match = _VARIABLE.match(statement)
        if match is None:
            return  # .pragma and the like
        unit = SIZES[match["type"]]
        size = unit
        for count in re.findall(r"\[(\d*)\]", match["dims"]):
            size *= int(count or 0)
        name, space = match["name"], match["space"]
        if space == "param":
            self.copies += 1
            scopes[-1][name] = f"%argument{self.copies}"
        elif space == "local":
            self._declare("local", prefix + name, int(match["align"] or unit), size)
            scopes[-1][name] = prefix + name
        elif name not in self.kernel.shared:
            self._declare("shared", name, int(match["align"] or unit), size)

    def _instruction(
        self, statement: str, rename: Callable[[str], str], line: str, prefix: str
    ) -> None:
        predicate, negated, text = None, False, statement
        match = _PREDICATE.match(statement)
        if match:
            negated, predicate = bool(match[1]), rename(match[2])
            statement = statement[match.end() :]
        head, _, tail = statement.partition(" ")
        opcode, *modifiers = head.replace("::", "_").split(".")
        operands = split_operands(_NAME.sub(lambda m: rename(m.group()), tail))
        append = self.kernel.instructions.append
        if opcode == "bra":
            target = prefix + operands[0]
            append(Instruction("bra", (), (target,), text, line, predicate, negated))
            return
        if predicate is not None:
            self.copies += 1
            skip = f"$skip{self.copies}"
            append(Instruction("bra", (), (skip,), text, line, predicate, not negated))
            self._instruction(statement, rename, line, prefix)
            self.kernel.labels[skip] = len(self.kernel.instructions)
            return
        if opcode == "ret" and prefix:
            append(Instruction("bra", (), (f"{prefix}$return",), text, line))
        elif opcode == "call":
            self._call(operands, text, line)
        elif opcode in ("ld", "st") and "param" in modifiers and "%argument" in tail_of(operands):
            self._argument(opcode, modifiers, operands, text, line)
        else:
            append(Instruction(opcode, tuple(modifiers), operands, text, line))

    def _argument(
        self, opcode: str, modifiers: list[str], operands: tuple[str, ...], text: str, line: str
    ) -> None:
        """Arguments and results of inlined calls live in registers, one for each offset."""
        address, data = operands if opcode == "st" else operands[::-1]
        match = re.fullmatch(r"\[\s*(%argument\d+)\s*(?:\+\s*(\d+))?\s*\]", address)
        assert match is not None, text
        kind = modifiers[-1]
        for i, value in enumerate(split_operands(data.strip("{}"))):
            cell = f"{match[1]}+{int(match[2] or 0) + i * SIZES[kind]}"
            self.kernel.registers.setdefault(cell, f"b{SIZES[kind] * 8}")
            pair = (cell, value) if opcode == "st" else (value, cell)
            move = Instruction("mov", (f"b{SIZES[kind] * 8}",), pair, text, line)
            self.kernel.instructions.append(move)

    def _call(self, operands: tuple[str, ...], text: str, line: str) -> None:
        results = operands[0].strip("()") if operands[0].startswith("(") else ""
        rest = operands[1:] if results else operands
        name = rest[0]
        function = self.module.functions.get(name)
        if function is None or name in self.inlining:
            # a system call (vprintf, __assertfail) or a recursive one: an error if it is reached
            self.kernel.instructions.append(Instruction("call", (), (name,), text, line))
            return
        arguments = split_operands(rest[1].strip("()")) if len(rest) > 1 else ()
        formal = [m["name"] for m in _PARAMETER.finditer(function.parameters)]
        formal_results = [m["name"] for m in _PARAMETER.finditer(function.results)]
        bindings = dict(zip(formal, arguments, strict=True))
        bindings.update(zip(formal_results, split_operands(results), strict=True))
        self.copies += 1
        prefix = f"{name}@{self.copies}:"
        self.inlining.append(name)
        self._read(self.module.body(name), prefix, bindings)
        self.inlining.pop()
        self.kernel.labels[f"{prefix}$return"] = len(self.kernel.instructions)


def tail_of(operands: tuple[str, ...]) -> str:
    """The address operand of a load or a store, whichever of the two has brackets."""
    return next((o for o in operands if o.startswith("[")), "")
