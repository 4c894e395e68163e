"""Translates a kernel into Python functions, one for each basic block.

A block becomes straight-line Python over local variables that hold numpy arrays: no operand is
looked up or decoded while it runs. The scheduler (interpreter.py) decides which threads run which
block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import arithmetic as ar
from . import synchronization as sync
from .accesses import STRONG, Access, Atomic, Load, Store
from .approximations import WorstCase
from .errors import DeviceTrapError, Place, UninitializedReadError, UnsupportedInstructionError
from .memory import LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW
from .opcodes import DTYPES, comparison, operation, unsupported
from .ptx import SIZES, Instruction, Kernel, split_operands
from .threads import SPECIAL_REGISTERS, Group

_NUMPY = {
    "b1": "bool",
    "u1": "u1",
    "u2": "u2",
    "u4": "u4",
    "u8": "u8",
    "f2": "f2",
    "f4": "f4",
    "f8": "f8",
}
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)U?")
_ADDRESS = re.compile(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_NOTHING = [
    "membar",
    "fence",
    "prefetch",
    "prefetchu",
    "discard",
    "applypriority",
    "nanosleep",
    "griddepcontrol",
    "pmevent",
]
_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}


@dataclass
class Block:
    """A basic block: what it computes, and where its threads go."""

    first: int
    instructions: list[Instruction]
    run: Callable[[Group], Any] = field(default=lambda group: None)
    end: str = "next"  # next, branch, exit
    target: int = -1
    conditional: bool = False
    negated: bool = False
    live: list[int] = field(default_factory=list)  # registers needed when the block begins
    # what its threads must wait for before they run it
    warp_sync: Instruction | None = None
    mask: Callable[[Group], Any] | None = None
    barrier: Instruction | None = None
    barrier_operands: Callable[[Group], Any] | None = None


class Program:
    """The translated kernel."""

    def __init__(self, kernel: Kernel, variables: Collection[str], worst_case: WorstCase) -> None:
        self.kernel = kernel
        self.variables = variables  # of the module; their addresses are known at the launch
        self.worst_case = worst_case
        self.registers: dict[str, int] = {name: i for i, name in enumerate(kernel.registers)}
        carry = len(self.registers)
        self.registers["%carry"] = carry
        self.kernel.registers["%carry"] = "u32"
        self.storage = self._storage()
        zeros = {dtype: np.zeros(1, dtype) for dtype in self.storage}
        self.initial = [zeros[dtype] for dtype in self.storage]
        accesses = [
            i for i in kernel.instructions if i.opcode in ("ld", "st", "atom", "red") and i.types
        ]

        def granule(most: int, *elsewhere: str) -> int:
            sizes = (SIZES[i.types[-1]] for i in accesses if not i.has(*elsewhere))
            return min([most, *sizes])

        self.shared_granule = granule(4, "global", "param", "const", "local")
        self.global_granule = granule(16, "shared", "param", "const", "local")
        self.blocks = self._split()
        self._check_written()
        self._liveness()
        for block in self.blocks:
            _Translator(self, block).translate()
        # Without them a kernel that has no races cannot depend on the order of its threads.
        self.unordered = any(
            i.opcode in ("atom", "red") or (i.opcode in ("ld", "st") and i.has(*STRONG))
            for i in kernel.instructions
        )
        self.fences = any(i.opcode in ("membar", "fence") for i in kernel.instructions) or any(
            i.opcode in ("ld", "st", "atom", "red") and i.has("acquire", "release", "acq_rel")
            for i in kernel.instructions
        )
        # What was translated: of a large kernel, most of the memory.
        kernel.instructions.clear()
        kernel.labels.clear()
        kernel.registers.clear()
        self.registers.clear()
        self.storage.clear()
        self.live_after.clear()
        for block in self.blocks:
            del block.instructions[1:]  # the first tells where a thread stands

    def _storage(self) -> list[np.dtype[Any]]:
        """The numpy type of each register.

        Untyped registers hold floats where most instructions that touch them are about floats.
        """
        votes = np.zeros(len(self.registers), int)
        for instruction in self.kernel.instructions:
            if not instruction.types or instruction.opcode in ("ld", "st", "mov"):
                continue
            kinds = instruction.types
            for position, operand in enumerate(instruction.operands):
                index = self.registers.get(operand)
                if index is None:
                    continue
                kind = kinds[0] if position == 0 or len(kinds) == 1 else kinds[-1]
                votes[index] += 1 if kind in ("f32", "f64") else -1
        types = []
        for name, index in self.registers.items():
            kind = self.kernel.registers[name]
            dtype = DTYPES.get(kind)
            if dtype is None:
                raise UnsupportedInstructionError(f"register {name} of type .{kind}")
            if kind == "f16":
                dtype = np.dtype("u2")
            elif dtype.kind == "i":
                dtype = np.dtype(f"u{dtype.itemsize}")
            elif kind in ("b32", "b64") and votes[index] > 0:
                dtype = np.dtype(f"f{dtype.itemsize}")
            types.append(dtype)
        return types

    def _split(self) -> list[Block]:
        instructions, labels = self.kernel.instructions, self.kernel.labels
        starts = {0, *labels.values()}
        for i, instruction in enumerate(instructions):
            if instruction.opcode in ("bra", "ret", "exit"):
                starts.add(i + 1)
            elif waits(instruction):
                starts.update((i, i + 1))
        ordered = sorted(s for s in starts if s < len(instructions))
        index = {start: i for i, start in enumerate(ordered)}
        blocks = []
        for start, stop in zip(ordered, [*ordered[1:], len(instructions)], strict=True):
            body = instructions[start:stop]
            block = Block(start, body)
            last = body[-1]
            if last.opcode == "bra":
                block.end = "branch"
                block.target = index.get(labels[last.operands[0]], len(ordered))
                block.conditional = last.predicate is not None
                block.negated = last.negated
            elif last.opcode in ("ret", "exit"):
                block.end = "exit"
            first = body[0]
            if first.opcode in sync.WARP_OPCODES or sync.is_warp_barrier(first):
                block.warp_sync = first
            elif sync.is_block_barrier(first):
                block.barrier = first
            blocks.append(block)
        return blocks

    def _names(self, instruction: Instruction) -> tuple[set[int], set[int]]:
        """Registers read and written."""
        reads: set[int] = set()
        writes: set[int] = set()
        no_result = instruction.opcode in (
            "st",
            "red",
            "bar",
            "barrier",
            "bra",
            "call",
            "ret",
            "cp",
        )
        if sync.is_block_barrier(instruction) and instruction.has("red"):
            no_result = False
        for position, operand in enumerate(instruction.operands):
            into = (
                writes if position == 0 and not no_result and not operand.startswith("[") else reads
            )
            for name in re.findall(r"%[^\s,|\[\]{}!]+", operand):
                register = name if name in self.registers else name.partition("+")[0]
                if register in self.registers:
                    into.add(self.registers[register])
        if instruction.predicate is not None:
            reads.add(self.registers[instruction.predicate])
        if instruction.opcode in ("addc", "subc", "madc"):
            reads.add(self.registers["%carry"])
        if instruction.has("cc"):
            writes.add(self.registers["%carry"])
        return reads, writes

    def _check_written(self) -> None:
        """Raise for a register that is read and that no instruction writes."""
        names = [(i, *self._names(i)) for i in self.kernel.instructions]
        written = set().union(*(writes for _, _, writes in names))
        for instruction, reads, _ in names:
            if missing := reads - written:
                name = list(self.registers)[min(missing)]
                raise UninitializedReadError(
                    f"read of register {name}, which nothing has written",
                    Place(self.kernel.name, instruction.line, instruction.text),
                )

    def _liveness(self) -> None:
        """Which registers each block needs: the usual fixpoint, on integers as bit sets."""
        count = len(self.blocks)
        uses, defines = [0] * count, [0] * count
        for b, block in enumerate(self.blocks):
            for instruction in block.instructions:
                reads, writes = self._names(instruction)
                for r in reads:
                    if not defines[b] >> r & 1:
                        uses[b] |= 1 << r
                for r in writes:
                    defines[b] |= 1 << r
        live = [0] * (count + 1)
        changed = True
        while changed:
            changed = False
            for b in reversed(range(count)):
                block = self.blocks[b]
                after = 0
                if block.end == "branch":
                    after = live[block.target]
                if block.end == "next" or block.conditional:
                    after |= live[b + 1]
                now = uses[b] | (after & ~defines[b])
                if now != live[b]:
                    live[b], changed = now, True
        self.live_after = []
        for b, block in enumerate(self.blocks):
            after = live[block.target] if block.end == "branch" else 0
            if block.end == "next" or block.conditional:
                after |= live[b + 1]
            self.live_after.append(after)
            block.live = _positions(live[b])


def _positions(bits: int) -> list[int]:
    """Of the bits that are set, in a number that may have thousands."""
    text, found, at = bin(bits)[:1:-1], [], -1
    while (at := text.find("1", at + 1)) >= 0:
        found.append(at)
    return found


def waits(instruction: Instruction) -> bool:
    """Whether threads must meet before they execute this instruction."""
    return (
        instruction.opcode in sync.WARP_OPCODES
        or sync.is_warp_barrier(instruction)
        or sync.is_block_barrier(instruction)
    )


def _pack_pair(pair: Any) -> Any:
    return np.ascontiguousarray(pair).view(np.uint32).reshape(-1)


def _unpack_pair(word: Any) -> Any:
    return np.ascontiguousarray(word).view(np.uint16).reshape(-1, 2)


def _cast(dtype: str) -> Callable[[Any], Any]:
    kind = np.dtype(dtype)
    return lambda a: a.astype(kind)


class _Translator:
    """Writes the Python of one block."""

    def __init__(self, program: Program, block: Block) -> None:
        self.program = program
        self.kernel = program.kernel
        self.block = block
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {
            "where": np.where,
            "pack_pair": _pack_pair,
            "unpack_pair": _unpack_pair,
            "bf16_to_float": ar.bf16_to_float,
            "float_to_bf16": ar.float_to_bf16,
            "ascontiguousarray": np.ascontiguousarray,
        }
        for name in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "b1"):
            self.scope[name] = np.dtype(name)
        self.defined: set[int] = set()
        self.loaded: set[int] = set()

    # ------------------------------------------------------------------ operands

    def name(self, value: Any, prefix: str) -> str:
        """A name for a constant or a function in the generated code."""
        key = f"{prefix}{len(self.scope)}"
        self.scope[key] = value
        return key

    def register(self, name: str) -> str:
        """The local variable of a register, loaded when the block first reads it."""
        index = self.program.registers.get(name)
        if index is None:
            raise UnsupportedInstructionError(f"unknown register {name} in {self.kernel.name}")
        if index not in self.defined and index not in self.loaded:
            self.loaded.add(index)
        return f"r{index}"

    def read(self, operand: str, kind: str) -> str:
        """An expression for an operand as the given PTX type."""
        if kind == "pred" and operand.startswith("!"):
            return f"~{self.read(operand[1:], kind)}"
        dtype = DTYPES[kind]
        if kind == "f16x2":
            return f"unpack_pair({self.raw(operand, 4)}).view(f2)"
        if kind == "bf16x2":
            return f"bf16_to_float(unpack_pair({self.raw(operand, 4)}))"
        if kind == "bf16":
            return f"bf16_to_float({self.raw(operand, 2)})"
        if not operand.startswith("%"):
            return self.constant(operand, dtype)
        if operand in SPECIAL_REGISTERS:
            expression, have = self.special(operand), np.dtype("u4")
        else:
            expression = self.register(operand)
            have = self.program.storage[self.program.registers[operand]]
        return _convert(expression, have, dtype)

    def raw(self, operand: str, size: int) -> str:
        """An operand as unsigned bits."""
        return self.read(operand, f"u{size * 8}")

    def special(self, operand: str) -> str:
        """A special register."""
        return f"group.special({operand[1:]!r})"

    def constant(self, operand: str, dtype: np.dtype[Any]) -> str:
        """An immediate operand or the address of a symbol."""
        size = dtype.itemsize
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", operand):
            value = np.array([int(operand[2:], 16)], np.uint32).view(np.float32)
            return self.name(
                value.astype(dtype) if dtype.kind == "f" and size != 4 else value.view(dtype), "k"
            )
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", operand):
            wide = np.array([int(operand[2:], 16)], np.uint64).view(np.float64)
            return self.name(wide.astype(dtype) if dtype == np.float32 else wide.view(dtype), "k")
        if _INTEGER.fullmatch(operand):
            number = int(operand.rstrip("U"), 0)
        elif operand.partition("+")[0] in self.program.variables:
            name, _, addend = operand.partition("+")
            address = f"group.batch.launch.symbol({name!r}, {int(addend or 0)})"
            return _convert(address, np.dtype("u8"), dtype)
        else:
            number = self.address_of(operand)
        if dtype.kind == "b":
            return self.name(np.array([bool(number)]), "k")
        bits = np.array([number % (1 << 8 * size)], np.dtype(f"u{size}"))
        return self.name(bits.view(dtype), "k")

    def address_of(self, symbol: str) -> int:
        """The address of a variable in its own state space."""
        base, _, addend = symbol.partition("+")
        kernel = self.kernel
        for table in (kernel.shared, kernel.local, kernel.parameters):
            if base in table:
                return table[base].offset + int(addend or 0)
        raise UnsupportedInstructionError(f"unknown symbol {symbol} in {kernel.name}")

    def write(self, operand: str, expression: str, kind: str) -> None:
        """Assign an expression of the given PTX type to a register."""
        if operand == "_":
            self.lines.append(expression)
            return
        index = self.program.registers.get(operand)
        if index is None:
            raise UnsupportedInstructionError(f"unknown register {operand} in {self.kernel.name}")
        want = self.program.storage[index]
        have = DTYPES[kind]
        if kind == "f16x2":
            expression = f"pack_pair({expression})"
        elif kind == "bf16x2":
            expression = f"pack_pair(float_to_bf16(ascontiguousarray({expression})))"
        elif kind == "bf16":
            expression = f"float_to_bf16({expression})"
        self.defined.add(index)
        self.lines.append(f"r{index} = {_convert(expression, have, want)}")

    # ------------------------------------------------------------------ the block

    def translate(self) -> None:
        """Compile the block and the functions that tell the scheduler what it waits for."""
        block = self.block
        for instruction in block.instructions:
            self.instruction(instruction)
        last = block.instructions[-1]
        result = "None"
        if block.conditional:
            assert last.predicate is not None
            result = self.read(last.predicate, "pred")
        after = self.program.live_after[self.program.blocks.index(block)]
        body = [f"r{i} = registers[{i}]" for i in sorted(self.loaded)]
        body += self.lines
        body += [f"registers[{i}] = r{i}" for i in sorted(self.defined) if after >> i & 1]
        body.append(f"return {result}")
        block.run = self.compile("run", ["registers = group.registers", *body])
        if block.warp_sync is not None:
            mask = sync.member_mask_operand(block.warp_sync)
            block.mask = self.getter("mask", [(mask, "u32")])
        if block.barrier is not None:
            operands = block.barrier.operands
            if block.barrier.has("red"):
                operands = operands[1:-1]
            block.barrier_operands = self.getter("barrier", [(o, "u32") for o in operands])

    def getter(self, name: str, operands: list[tuple[str, str]]) -> Callable[[Group], Any]:
        """A function that reads operands of a group that has not run the block yet."""
        self.loaded, self.defined = set(), set()
        values = [self.read(operand, kind) for operand, kind in operands]
        lines = ["registers = group.registers"]
        lines += [f"r{i} = registers[{i}]" for i in sorted(self.loaded)]
        lines.append(f"return ({', '.join(values)}{',' if name == 'barrier' else ''})")
        return self.compile(name, lines)

    def compile(self, name: str, lines: list[str]) -> Callable[[Group], Any]:
        """The function with this body."""
        source = f"def {name}(group):\n    " + "\n    ".join(lines) + "\n"
        place = f"<{self.kernel.name} block {self.block.first}>"
        exec(compile(source, place, "exec"), self.scope)
        function: Callable[[Group], Any] = self.scope[name]
        return function

    def instruction(self, i: Instruction) -> None:
        """Append the code of an instruction."""
        if i.opcode in ("bra", "ret", "exit"):
            return
        special = getattr(self, f"do_{i.opcode}", None)
        if special is not None:
            special(i)
        elif i.opcode in _NOTHING:
            if i.opcode in ("membar", "fence") and not i.has("proxy", "cta"):
                self.lines.append("group.batch.launch.races.fence(group)")
        else:
            self.arithmetic(i)

    def arithmetic(self, i: Instruction) -> None:
        """An instruction of the opcode table."""
        if i.has("cc") or i.opcode in ("addc", "subc", "madc"):
            self.carrying(i)
            return
        op = operation(i, self.program.worst_case)
        sources = [self.read(o, k) for o, k in zip(i.operands[1:], op.sources, strict=False)]
        if isinstance(op.compute, str):
            expression = "(" + op.compute.format(*sources) + ")"
        else:
            expression = f"{self.name(op.compute, 'f')}({', '.join(sources)})"
        destination, _, valid = i.operands[0].partition("|")
        if valid:
            raise unsupported(i)
        self.write(destination, expression, op.result)

    def carrying(self, i: Instruction) -> None:
        """Extended-precision integer arithmetic: add, sub, mad with .cc, addc, subc, madc."""
        kind = f"u{SIZES[i.types[-1]] * 8}"
        name, with_carry = i.opcode.rstrip("c"), i.opcode.endswith("c")
        high = i.has("hi")
        signed = i.types[-1][0] == "s"

        def compute(carry: Any, *x: Any) -> Any:
            if name == "mad":
                a = x[0].view(f"i{x[0].itemsize}") if signed else x[0]
                b = x[1].view(f"i{x[1].itemsize}") if signed else x[1]
                first = (
                    ar.multiply_high(*np.broadcast_arrays(a, b)).view(x[0].dtype)
                    if high
                    else x[0] * x[1]
                )
                second = x[2]
            else:
                first, second = x
            inward = carry.astype(first.dtype) if with_carry else first.dtype.type(0)
            if name == "sub":
                result = first - second - inward
                borrow = (first < second) | ((first == second) & (inward != 0))
                return result, borrow.astype(np.uint32)
            total = first + second
            result = total + inward
            return result, ((total < first) | (result < total)).astype(np.uint32)

        sources = [self.read(o, kind) for o in i.operands[1:]]
        function = self.name(compute, "f")
        carry = self.register("%carry") if with_carry else self.name(np.zeros(1, np.uint32), "k")
        self.lines.append(f"t, c = {function}({', '.join([carry, *sources])})")
        self.write(i.operands[0], "t", kind)
        if i.has("cc"):
            self.write("%carry", "c", "u32")

    # ------------------------------------------------------------------ moves and predicates

    def do_mov(self, i: Instruction) -> None:
        """Copies, packing and unpacking, special registers, addresses of symbols."""
        kind = i.types[-1]
        to, source = i.operands
        if to.startswith("{"):
            parts = split_operands(to.strip("{}"))
            size = SIZES[kind] // len(parts)
            self.lines.append(f"w = {self.raw(source, SIZES[kind])}")
            for n, part in enumerate(parts):
                if part == "_":
                    continue
                shift = self.name(DTYPES[f"u{SIZES[kind] * 8}"].type(8 * size * n), "k")
                self.write(part, f"(w >> {shift}).astype(u{size})", f"u{size * 8}")
        elif source.startswith("{"):
            parts = split_operands(source.strip("{}"))
            size = SIZES[kind] // len(parts)
            word = DTYPES[f"u{SIZES[kind] * 8}"]
            terms = []
            for n, part in enumerate(parts):
                shift = self.name(word.type(8 * size * n), "k")
                terms.append(f"({self.raw(part, size)}.astype(u{word.itemsize}) << {shift})")
            self.write(to, " | ".join(terms), f"u{SIZES[kind] * 8}")
        elif source in ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo"):
            self.write(to, f"group.batch.launch.clock(u{SIZES[kind]})", f"u{SIZES[kind] * 8}")
        elif kind == "pred" or kind in ("f32", "f64"):
            self.write(to, self.read(source, kind), kind)
        else:
            self.write(to, self.raw(source, SIZES[kind]), f"u{SIZES[kind] * 8}")

    def do_cvta(self, i: Instruction) -> None:
        """Between a state space and generic addresses."""
        space = i.one_of("shared", "local", "param", "global", "const")
        value = self.read(i.operands[1], "u64")
        if space in _WINDOWS:
            window = self.name(np.array([_WINDOWS[space]], np.uint64), "k")
            value = f"{value} - {window}" if i.has("to") else f"{value} + {window}"
        self.write(i.operands[0], value, "u64")

    def do_isspacep(self, i: Instruction) -> None:
        """Whether a generic address lies in a state space."""
        space = i.modifiers[0].partition("_")[0]

        def compute(address: Any) -> Any:
            if space in _WINDOWS:
                return (address & np.uint64(7 << 60)) == np.uint64(_WINDOWS[space])
            return address < np.uint64(SHARED_WINDOW)

        self.write(
            i.operands[0], f"{self.name(compute, 'f')}({self.read(i.operands[1], 'u64')})", "pred"
        )

    def do_setp(self, i: Instruction) -> None:
        """A comparison, perhaps combined with a predicate; a second result is the negation."""
        expression = self.compared(i)
        first, _, second = i.operands[0].partition("|")
        combine = i.one_of("and", "or", "xor")
        self.lines.append(f"t = {expression}")
        true, false = "t", "~t"
        if combine:
            sign = {"and": "&", "or": "|", "xor": "^"}[combine]
            other = self.read(i.operands[3], "pred")
            self.lines.append(f"q = {other}")
            true, false = f"t {sign} q", f"~t {sign} q"
        if second and second != "_":
            self.lines.append(f"s = {false}")
        if first != "_":
            self.write(first, true, "pred")
        if second and second != "_":
            self.write(second, "s", "pred")

    def compared(self, i: Instruction) -> str:
        """The comparison of setp and set."""
        kind = i.types[-1]
        if kind in ("f16x2", "bf16x2"):
            raise unsupported(i)
        compute = comparison(i.modifiers[0], kind)
        a, b = self.read(i.operands[1], kind), self.read(i.operands[2], kind)
        if i.has("ftz") and kind == "f32":
            flush = self.name(ar.flush, "f")
            a, b = f"{flush}({a})", f"{flush}({b})"
        if isinstance(compute, str):
            return "(" + compute.format(a, b) + ")"
        return f"{self.name(compute, 'f')}({a}, {b})"

    def do_set(self, i: Instruction) -> None:
        """A comparison as 1.0, or as all ones."""
        to = i.types[0]
        expression = self.compared(i)
        combine = i.one_of("and", "or", "xor")
        if combine:
            sign = {"and": "&", "or": "|", "xor": "^"}[combine]
            expression = f"({expression} {sign} {self.read(i.operands[3], 'pred')})"
        if to == "f32":
            self.write(i.operands[0], f"{expression}.astype(f4)", "f32")
        else:
            self.write(i.operands[0], f"(-{expression}.astype(i4)).view(u4)", "u32")

    # ------------------------------------------------------------------ memory

    def address(self, operand: str) -> tuple[str, int]:
        """Base expression (unsigned, 32 or 64 bits) and displacement of an address operand."""
        match = _ADDRESS.fullmatch(operand)
        if match is None:
            raise UnsupportedInstructionError(f"address {operand} in {self.kernel.name}")
        base, displacement = match[1], int(match[2] or "0", 0)
        if base.startswith("%"):
            storage = self.program.storage[self.program.registers[base]]
            return self.raw(base, storage.itemsize), displacement
        return self.constant(base, np.dtype("u8")), displacement

    def do_ld(self, i: Instruction) -> None:
        """Loads; parameters at a fixed place are constants of the launch."""
        kind, size = self.memory_type(i)
        targets = split_operands(i.operands[0].strip("{}"))
        base, displacement = self.address(i.operands[1])
        named = _ADDRESS.fullmatch(i.operands[1])
        assert named is not None
        if i.has("param") and named[1] in self.kernel.parameters:
            start = self.kernel.parameters[named[1]].offset + displacement
            for n, target in enumerate(targets):
                self.loaded_value(
                    target, f"group.batch.launch.parameter({start + n * size}, u{size})", kind
                )
            return
        access = self.name(Load(i, size, len(targets), displacement), "load")
        names = [f"w{n}" for n in range(len(targets))]
        self.lines.append(f"{', '.join(names)} = {access}(group, {base})")
        for target, word in zip(targets, names, strict=True):
            self.loaded_value(target, word, kind)

    def memory_type(self, i: Instruction) -> tuple[str, int]:
        """Type of an element in memory, and its size."""
        kind = i.types[-1] if i.types else ""
        if kind not in DTYPES:
            raise unsupported(i)
        return kind, SIZES[kind]

    def loaded_value(self, target: str, word: str, kind: str) -> None:
        """Words from memory into a register, extended by the sign of the type."""
        if target == "_":
            return
        if kind[0] == "s":
            self.write(target, f"{word}.view(i{SIZES[kind]})", kind)
        else:
            self.write(target, word, f"u{SIZES[kind] * 8}")

    def do_st(self, i: Instruction) -> None:
        """Stores."""
        _, size = self.memory_type(i)
        sources = split_operands(i.operands[1].strip("{}"))
        base, displacement = self.address(i.operands[0])
        access = self.name(Store(i, size, len(sources), displacement), "store")
        values = [self.raw(s, size) for s in sources]
        self.lines.append(f"{access}(group, {base}, {', '.join(values)})")

    do_ldu = do_ld

    def do_atom(self, i: Instruction) -> None:
        """Atomic operations that return the old value."""
        self.atomic(i, i.operands[0], i.operands[1:])

    def do_red(self, i: Instruction) -> None:
        """Atomic operations that do not."""
        self.atomic(i, "_", i.operands)

    def atomic(self, i: Instruction, target: str, operands: tuple[str, ...]) -> None:
        """An atomic operation on one word."""
        kind = i.types[-1]
        base, displacement = self.address(operands[0])
        as_read = f"u{SIZES[kind] * 8}" if "bf16" in kind or kind == "f16x2" else kind
        access = self.name(Atomic(i, DTYPES[as_read], kind, displacement), "atomic")
        values = [self.read(o, as_read) for o in operands[1:] if not o.startswith("[")]
        self.write(target, f"{access}(group, {base}, {', '.join(values)})", as_read)

    # ------------------------------------------------------------------ threads among themselves

    def do_shfl(self, i: Instruction) -> None:
        """Shuffles."""
        if not i.has("sync"):
            raise unsupported(i)
        target, _, valid = i.operands[0].partition("|")
        arguments = ", ".join(self.read(o, "u32") for o in i.operands[1:4])
        self.lines.append(f"t, s = {self.name(sync.shuffle(i), 'f')}(group, {arguments})")
        self.write(target, "t", "u32")
        if valid:
            self.write(valid, "s", "pred")

    def do_vote(self, i: Instruction) -> None:
        """Votes."""
        if not i.has("sync"):
            raise unsupported(i)
        arguments = f"{self.read(i.operands[1], 'pred')}, {self.read(i.operands[2], 'u32')}"
        kind = "u32" if i.has("ballot") else "pred"
        self.write(i.operands[0], f"{self.name(sync.vote(i), 'f')}(group, {arguments})", kind)

    def do_match(self, i: Instruction) -> None:
        """Matches."""
        target, _, agreed = i.operands[0].partition("|")
        arguments = f"{self.read(i.operands[1], i.types[-1])}, {self.read(i.operands[2], 'u32')}"
        self.lines.append(f"t, s = {self.name(sync.match(i), 'f')}(group, {arguments})")
        self.write(target, "t", "u32")
        if agreed:
            self.write(agreed, "s", "pred")

    def do_redux(self, i: Instruction) -> None:
        """Reductions over a warp."""
        kind = i.types[-1].replace("b", "u") if i.types[-1] != "f32" else "f32"
        arguments = f"{self.read(i.operands[1], kind)}, {self.read(i.operands[2], 'u32')}"
        self.write(
            i.operands[0], f"{self.name(sync.warp_reduce(i), 'f')}(group, {arguments})", kind
        )

    def do_activemask(self, i: Instruction) -> None:
        """The lanes that happen to be together."""
        self.write(i.operands[0], f"{self.name(sync.active_mask, 'f')}(group)", "u32")

    def do_bar(self, i: Instruction) -> None:
        """The result of a reducing barrier; the waiting is the scheduler's."""
        if i.has("cluster"):
            raise unsupported(i)
        if i.has("red"):
            kind = "u32" if i.has("popc") else "pred"
            value = self.read(i.operands[-1], "pred")
            self.write(
                i.operands[0], f"{self.name(sync.barrier_reduce(i), 'f')}(group, {value})", kind
            )
        elif i.has("warp"):
            mask = self.read(i.operands[-1], "u32")
            self.lines.append(f"group.batch.meetings.warp_barrier(group.slots, {mask})")

    do_barrier = do_bar

    def do_trap(self, i: Instruction) -> None:
        """An error when a thread gets here."""
        self.lines.append(f"{self.name(_stop(i), 'f')}(group)")

    do_brkpt = do_trap
    do_call = do_trap

    def do_createpolicy(self, i: Instruction) -> None:
        """A cache policy has no effect on results."""
        self.write(i.operands[0], self.name(np.zeros(1, np.uint64), "k"), "u64")


def _stop(i: Instruction) -> Callable[[Group], None]:
    def stop(group: Group) -> None:
        if i.opcode == "call" and "__assertfail" not in i.operands[0]:
            raise UnsupportedInstructionError(f"call of {i.operands[0]}", group.place(i, 0))
        raise DeviceTrapError(
            "assertion failed" if i.opcode == "call" else "trap", group.place(i, 0)
        )

    return stop


def _convert(expression: str, have: np.dtype[Any], want: np.dtype[Any]) -> str:
    """Reinterpret equal sizes, truncate to smaller ones, extend by the sign to larger ones."""
    if have == want:
        return expression
    value = expression if re.fullmatch(r"\w+", expression) else f"({expression})"
    to = f"{want.kind}{want.itemsize}"
    if have.kind == "b" or want.kind == "b":
        return f"{value}.astype({to})"
    if have.itemsize == want.itemsize:
        return f"{value}.view({to})"
    if have.kind == "f":
        value = f"{value}.view(u{have.itemsize})"
    extended = f"{value}.astype({'i' if have.kind == 'i' else 'u'}{want.itemsize})"
    return extended if want.kind in ("u" if have.kind != "i" else "i") else f"{extended}.view({to})"


__all__ = ["Access", "Block", "Program"]
