"""The threads being run: batches of blocks, and groups of threads at the same instruction."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import Place, demangled
from .memory import Meetings, SharedMemory
from .ptx import Instruction

if TYPE_CHECKING:
    from .interpreter import Launch

Array = NDArray[Any]
Index3 = tuple[int, int, int]


class Batch:
    """Consecutive blocks of a grid that run at the same time.

    A thread is known by its slot: its number when the threads of each block are padded to whole
    warps.
    """

    def __init__(self, launch: Launch, first_block: int, block_count: int) -> None:
        self.launch = launch
        self.first_block = first_block
        self.block_count = block_count
        self.threads = int(np.prod(launch.block))
        self.padded = -(-self.threads // 32) * 32
        self.slots = block_count * self.padded
        every = np.arange(self.slots)
        self.live = (
            every if self.padded == self.threads else every[every % self.padded < self.threads]
        )
        self.exited = np.zeros(self.slots, bool)
        kernel = launch.program.kernel
        self.meetings = Meetings(self)
        self.shared = SharedMemory(self, launch.shared_bytes, launch.program.shared_granule)
        self.local_bytes = kernel.local_bytes
        self.local_stride = -(-kernel.local_bytes // 16) * 16

    @cached_property
    def local(self) -> Array:
        """Local memory of all slots, bytes."""
        return np.zeros(self.slots * self.local_stride, np.uint8)

    @cached_property
    def local_written(self) -> Array:
        """1 for each byte of it that was written."""
        return np.zeros(self.slots * self.local_stride, np.uint8)

    @cached_property
    def missing(self) -> int:
        """The lanes that the last warp of a block lacks, as a mask."""
        lanes = self.threads % 32
        return 0xFFFFFFFF & ~((1 << lanes) - 1) if lanes else 0

    def block_index(self, number: int) -> Index3:
        """The index of a block of the grid."""
        x, y, _ = self.launch.grid
        return number % x, number // x % y, number // (x * y)

    def thread_index(self, slot: int) -> Index3:
        """The index of a thread in its block."""
        x, y, _ = self.launch.block
        thread = slot % self.padded
        return thread % x, thread // x % y, thread // (x * y)

    def shared_name(self, offset: int) -> str:
        """' of name' for the shared variable that holds the offset."""
        for name, variable in self.launch.program.kernel.shared.items():
            if variable.offset <= offset and (
                offset < variable.offset + variable.size or not variable.size
            ):
                return f" ({demangled(name)})"
        return ""


class Group:
    """Threads that execute together, with their registers.

    A register is an array of one value for each thread, or of a single value that all share.
    """

    __slots__ = ("__dict__", "batch", "pc", "registers", "slots")

    def __init__(self, batch: Batch, slots: Array, registers: list[Any], pc: int = 0) -> None:
        self.batch = batch
        self.slots = slots
        self.registers = registers
        self.pc = pc

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def complete(self) -> bool:
        """Whether these are all the threads of the batch."""
        return len(self.slots) == len(self.batch.live)

    @cached_property
    def local_blocks(self) -> Array:
        """The block of each thread, counted from the first of the batch."""
        return self.slots // self.batch.padded

    @cached_property
    def blocks(self) -> Array:
        """The block of each thread in the grid."""
        return self.local_blocks + self.batch.first_block

    @cached_property
    def lanes(self) -> Array:
        """The lane of each thread in its warp."""
        return self.slots & 31

    @cached_property
    def warps(self) -> Array:
        """The warp of each thread in the batch."""
        return self.slots >> 5

    def place(self, instruction: Instruction, lane: int) -> Place:
        """Where the thread at this position of the group stands."""
        slot = int(self.slots[lane if len(self.slots) > lane else 0])
        batch = self.batch
        return Place(
            batch.launch.program.kernel.name,
            instruction.line,
            instruction.text,
            batch.block_index(batch.first_block + slot // batch.padded),
            batch.thread_index(slot),
        )

    def spread(self, value: Array) -> Array:
        """One value for each thread."""
        return value if len(value) == len(self.slots) else np.broadcast_to(value, self.slots.shape)

    def select(self, positions: Array, live: list[int], pc: int) -> Group:
        """The threads at these positions, with the registers that are still needed."""
        registers: list[Any] = [None] * len(self.registers)
        for r in live:
            value = self.registers[r]
            registers[r] = value if value is None or value.size == 1 else value[positions]
        return Group(self.batch, self.slots[positions], registers, pc)

    def merge(self, other: Group, live: list[int]) -> Group:
        """Both groups' threads, in the order of their slots."""
        slots = np.concatenate([self.slots, other.slots])
        order = np.argsort(slots, kind="stable")
        registers: list[Any] = [None] * len(self.registers)
        for r in live:
            a, b = self.registers[r], other.registers[r]
            if a is None or b is None or a is b:
                registers[r] = a if b is None else b
            elif a.size == 1 and b.size == 1 and a.tobytes() == b.tobytes():
                registers[r] = a
            else:
                registers[r] = np.concatenate([self.spread(a), other.spread(b)])[order]
        return Group(self.batch, slots[order], registers, self.pc)

    def special(self, name: str) -> Array:
        """The value of a special register such as tid.x."""
        launch = self.batch.launch
        axis = "xyz".find(name[-1]) if "." in name else -1
        name = name.partition(".")[0]
        if name == "ntid":
            return np.array([launch.block[axis]], np.uint32)
        if name == "nctaid":
            return np.array([launch.grid[axis]], np.uint32)
        if name == "tid":
            below = int(np.prod(launch.block[:axis], dtype=np.int64))
            thread = self.slots % self.batch.padded // below
            return (thread % launch.block[axis]).astype(np.uint32)
        if name == "ctaid":
            below = int(np.prod(launch.grid[:axis], dtype=np.int64))
            return (self.blocks // below % launch.grid[axis]).astype(np.uint32)
        if name == "laneid":
            return self.lanes.astype(np.uint32)
        if name == "warpid":
            return (self.slots % self.batch.padded // 32).astype(np.uint32)
        if name.startswith("lanemask_"):
            bit = np.uint64(1) << self.lanes.astype(np.uint64)
            masks = {
                "eq": bit,
                "lt": bit - np.uint64(1),
                "le": (bit << np.uint64(1)) - np.uint64(1),
                "gt": ~((bit << np.uint64(1)) - np.uint64(1)),
                "ge": ~(bit - np.uint64(1)),
            }
            return masks[name[-2:]].astype(np.uint32)
        raise KeyError(name)


SPECIAL_REGISTERS = {
    **{f"%{name}.{axis}": "u32" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"},
    "%laneid": "u32",
    "%warpid": "u32",
    **{f"%lanemask_{kind}": "u32" for kind in ("eq", "lt", "le", "gt", "ge")},
}
