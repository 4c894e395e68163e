"""Runs a kernel: blocks in batches, threads in groups that diverge at branches and meet again.

Of all groups the one that is furthest behind in the program runs first, so that groups meet where
branches join. Threads wait at barriers and warp instructions until those they wait for arrive; when
nothing can run and somebody waits, that is an error of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import synchronization as sync
from .errors import (
    BarrierError,
    EmulationError,
    OrderDependenceError,
    Place,
    WarpSyncError,
    WatchdogError,
)
from .memory import GlobalMemory, GlobalRaces
from .program import Block, Program
from .threads import Batch, Group, Index3

Array = NDArray[Any]

BATCH_THREADS = 1 << 15  # few enough that a register of a batch stays in cache
PATIENCE = 1 << 10  # steps after which another group gets a turn: a thread may spin, waiting for it
TURN = 1 << 6  # steps of a turn
WATCHDOG_STEPS = 1 << 20


@dataclass
class Launch:
    """One kernel launch."""

    program: Program
    grid: Index3
    block: Index3
    dynamic_shared: int
    parameters: Array
    memory: GlobalMemory
    symbols: Mapping[str, int]  # addresses of the module's variables
    check_races: bool = True
    only_blocks: Sequence[int] | None = None  # None: all blocks of the grid
    races: GlobalRaces = field(init=False)
    shared_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        static = self.program.kernel.shared_bytes
        if self.dynamic_shared:
            static = -(-static // 16) * 16
        self.shared_bytes = static + self.dynamic_shared
        self.backwards = False
        self.shared_atomic: Place | None = None  # where one was done last
        self.start()
        self._constants: dict[tuple[int, np.dtype[Any]], Array] = {}

    def start(self) -> None:
        """Nothing has happened yet."""
        self.races = GlobalRaces(self.memory, self.program.global_granule)
        self.ticks = 0

    def parameter(self, offset: int, dtype: np.dtype[Any]) -> Array:
        """A word of the parameters, the same for all threads."""
        key = offset, dtype
        if key not in self._constants:
            self._constants[key] = self.parameters[offset : offset + dtype.itemsize].view(dtype)
        return self._constants[key]

    def symbol(self, name: str, addend: int) -> Array:
        """The address of a variable of the module."""
        return np.array([self.symbols[name] + addend], np.uint64)

    def clock(self, dtype: np.dtype[Any]) -> Array:
        """A clock that ticks whenever it is read."""
        self.ticks += 1
        return np.array([self.ticks], dtype)

    def run(self) -> None:
        """Run all blocks of the grid, or the chosen ones."""
        blocks = int(np.prod(self.grid, dtype=np.int64))
        threads = int(np.prod(self.block))
        step = max(1, BATCH_THREADS // (-(-threads // 32) * 32))
        with np.errstate(all="ignore"):
            if self.only_blocks is not None:
                for block in self.only_blocks:
                    _Scheduler(Batch(self, block % blocks, 1)).run()
                return
            if self.program.unordered and self.check_races:
                self._run_in_two_orders(blocks, step)
            else:
                self._run_all(blocks, step)

    def _run_all(self, blocks: int, step: int) -> None:
        firsts = range(0, blocks, step)
        for first in reversed(firsts) if self.backwards else firsts:
            _Scheduler(Batch(self, first, min(step, blocks - first))).run()

    def _run_in_two_orders(self, blocks: int, step: int) -> None:
        """Run the grid, and from where it began once more, the last block and thread first."""
        before = self.memory.contents()
        self._run_all(blocks, step)
        first = self.memory.contents()
        self.memory.restore(before)
        self.backwards = True
        self.start()
        self._run_all(blocks, step)
        for allocation, (content, _) in first.items():
            different = np.flatnonzero(content != self.memory.read(allocation))
            if different.size:
                places = self.races.unordered
                place = places.get(allocation) or next(iter(places.values()), None)
                where = self.memory.describe(allocation.start + int(different[0]))
                raise OrderDependenceError(
                    f"{different.size} bytes differ where the last block and thread come first, "
                    f"the first at {where}",
                    place or self.shared_atomic,
                )
        self.memory.restore(first)


class _Scheduler:
    """The groups of one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.program = batch.launch.program
        self.blocks = self.program.blocks
        self.end = len(self.blocks)
        self.ready: list[Group] = []
        self.put(Group(batch, batch.live, list(self.program.initial)))
        self.waiting: list[Group] = []
        self.arrived: dict[int, list[Array]] = {}  # bar.arrive: barrier -> slots
        self.steps = 0
        self.favoured = -1  # a slot

    def run(self) -> None:
        """Until every thread has exited."""
        while self.ready:
            self.steps += 1
            if self.steps > WATCHDOG_STEPS:
                group = self.ready[0]
                instruction = self.blocks[min(group.pc, self.end - 1)].instructions[0]
                raise WatchdogError(
                    f"the kernel has not ended after {WATCHDOG_STEPS} steps",
                    group.place(instruction, 0),
                )
            group = self.next_group()
            if group.pc == self.end:
                self.batch.exited[group.slots] = True
                continue
            block = self.blocks[group.pc]
            if block.warp_sync is not None:
                passed = self.meet_warp(group, block)
            elif block.barrier is not None:
                passed = self.meet_block(group, block)
            else:
                passed = group
            if passed is not None:
                self.advance(passed, block)
        if self.waiting:
            raise self.stuck()

    def put(self, group: Group) -> None:
        """Make a group ready: backwards each warp by itself, so that none keeps step."""
        warps = np.unique(group.warps).tolist() if self.batch.launch.backwards else []
        if len(warps) < 2 or group.pc == self.end:
            self.ready.append(group)
            return
        live = self.blocks[group.pc].live
        self.ready += [
            group.select(np.flatnonzero(group.warps == warp), live, group.pc) for warp in warps
        ]

    def next_group(self) -> Group:
        """Take the group that is furthest behind, merged with those at the same place; backwards
        that of the last warp, until it waits or has exited. Each gets a turn in time."""
        if len(self.ready) == 1:
            return self.ready.pop()
        there = self.ready
        turn, step = divmod(self.steps, PATIENCE)
        if step == 0:
            self.favoured = int(there[turn % len(there)].slots[-1])
        if turn > 0 and step < TURN:
            there = [g for g in there if (g.slots == self.favoured).any()] or there
        elif self.batch.launch.backwards:
            last = max(int(g.slots[-1]) for g in there) // 32
            there = [g for g in there if int(g.slots[-1]) // 32 == last]
        chosen = min(there, key=lambda g: g.pc)
        together = [g for g in there if g.pc == chosen.pc]
        self.ready = [g for g in self.ready if g not in together]
        return self.join(together)

    def join(self, groups: list[Group]) -> Group:
        """One group of several at the same place."""
        merged = groups[0]
        if len(groups) > 1:
            live = self.blocks[merged.pc].live if merged.pc < self.end else []
            for group in groups[1:]:
                merged = merged.merge(group, live)
        return merged

    def split(
        self, group: Group, first: Array, pc_first: int, pc_second: int
    ) -> tuple[Group, Group]:
        """The threads where `first` is true, and the others."""
        parts = []
        for chosen, pc in ((first, pc_first), (~first, pc_second)):
            live = self.blocks[pc].live if pc < self.end else []
            parts.append(group.select(np.flatnonzero(chosen), live, pc))
        return parts[0], parts[1]

    def advance(self, group: Group, block: Block) -> None:
        """Run a block and put its threads where they go next."""
        taken = block.run(group)
        after = group.pc + 1
        if block.end == "next":
            group.pc = after
        elif block.end == "exit":
            group.pc = self.end
        elif not block.conditional:
            group.pc = block.target
        else:
            if block.negated:
                taken = ~taken
            count = int(np.count_nonzero(taken))
            if count == taken.size:
                group.pc = block.target
            elif count == 0:
                group.pc = after
            else:
                for part in self.split(group, taken, block.target, after):
                    self.put(part)
                return
        self.put(group)

    # ------------------------------------------------------------------ meeting

    def meet_warp(self, group: Group, block: Block) -> Group | None:
        """Those who may execute a warp instruction; the others wait."""
        assert block.warp_sync is not None
        assert block.mask is not None
        same = [g for g in self.waiting if g.pc == group.pc]
        if same:
            self.waiting = [g for g in self.waiting if g.pc != group.pc]
            group = self.join([*same, group])
        ready = sync.warp_ready(block.warp_sync, group, block.mask(group))
        if ready is None:
            return group
        if not ready.any():
            self.waiting.append(group)
            return None
        passed, held = self.split(group, ready, group.pc, group.pc)
        self.waiting.append(held)
        return passed

    def meet_block(self, group: Group, block: Block) -> Group | None:
        """Threads at a barrier of their block: go on if it is complete, else wait."""
        instruction = block.barrier
        assert instruction is not None
        identity, count = self.barrier_operands(group)
        if group.complete and count is None and not instruction.has("arrive"):
            self.batch.meetings.block_barrier(np.arange(self.batch.block_count))
            return group
        for number in np.unique(identity).tolist():
            part = group
            if identity.size > 1:
                chosen = np.flatnonzero(identity == number)
                part = group.select(chosen, block.live, group.pc)
            needed = self.batch.threads if count is None else int(count[0])
            if instruction.has("arrive"):
                self.arrived.setdefault(number, []).append(part.slots)
                self.advance(part, block)
            else:
                self.waiting.append(part)
            self.release(number, needed)
        return None

    def barrier_operands(self, group: Group) -> tuple[Array, Array | None]:
        """Number of the barrier at which a group stands, and how many threads it is for."""
        read = self.blocks[group.pc].barrier_operands
        assert read is not None
        operands = read(group)
        return operands[0], operands[1] if len(operands) > 1 else None

    def release(self, number: int, needed: int) -> None:
        """Let go the threads of the blocks for which enough have come."""
        here = [
            g
            for g in self.waiting
            if self.blocks[g.pc].barrier and int(self.barrier_operands(g)[0][0]) == number
        ]
        slots = np.concatenate([g.slots for g in here] + self.arrived.get(number, []))
        blocks = slots // self.batch.padded
        complete = np.bincount(blocks, minlength=self.batch.block_count) >= needed
        if not complete.any():
            return
        meetings = self.batch.meetings
        if needed == self.batch.threads:
            meetings.block_barrier(np.flatnonzero(complete))
        else:
            meetings.named_barrier(slots[complete[blocks]], number)
        if number in self.arrived:
            rest = np.concatenate(self.arrived[number])
            self.arrived[number] = [rest[~complete[rest // self.batch.padded]]]
        self.waiting = [g for g in self.waiting if g not in here]
        passed: dict[int, list[Group]] = {}
        for group in here:
            go = complete[group.local_blocks]
            if go.all():
                passed.setdefault(group.pc, []).append(group)
            elif not go.any():
                self.waiting.append(group)
            else:
                free, held = self.split(group, go, group.pc, group.pc)
                passed.setdefault(group.pc, []).append(free)
                self.waiting.append(held)
        if needed == self.batch.threads and len(passed) > 1:
            self.check_same_barrier(passed)
        for pc, groups in passed.items():
            self.advance(self.join(groups), self.blocks[pc])

    def check_same_barrier(self, passed: dict[int, list[Group]]) -> None:
        """The threads of a block must meet at one and the same __syncthreads."""
        seen = np.full(self.batch.block_count, -1)
        for pc, groups in passed.items():
            for group in groups:
                other = (seen[group.local_blocks] >= 0) & (seen[group.local_blocks] != pc)
                if other.any():
                    lane = int(np.flatnonzero(other)[0])
                    there = self.blocks[int(seen[group.local_blocks[lane]])].instructions[0]
                    raise BarrierError(
                        "threads of one block wait at different barriers, "
                        f"the others at {there.line}",
                        group.place(self.blocks[pc].instructions[0], lane),
                    )
                seen[group.local_blocks] = pc

    def stuck(self) -> EmulationError:
        """Why the waiting threads wait for ever."""
        group = min(self.waiting, key=lambda g: int(g.slots[0]))
        block = self.blocks[group.pc]
        instruction = block.instructions[0]
        place = group.place(instruction, 0)
        slot = int(group.slots[0])
        batch = self.batch
        elsewhere = sorted(
            {
                self.blocks[g.pc].instructions[0].line or "?"
                for g in self.waiting
                if g.pc != group.pc
            }
        )
        others = f"; others wait at {', '.join(elsewhere)}" if elsewhere else ""
        if block.barrier is not None:
            first = slot // batch.padded * batch.padded
            exited = int(batch.exited[first : first + batch.threads].sum())
            gone = f"{exited} of {batch.threads} threads of the block exited without reaching it"
            reason = gone if exited else "some threads of the block never reach it"
            return BarrierError(f"barrier that never completes: {reason}{others}", place)
        assert block.mask is not None
        mask = int(group.spread(block.mask(group))[0])
        lanes = np.arange(slot // 32 * 32, slot // 32 * 32 + 32)
        absent = ~np.isin(lanes, group.slots) & ((mask >> np.arange(32)) & 1 != 0)
        exited = absent & batch.exited[lanes]
        absent = exited if exited.any() else absent
        names = sync.lane_names(sum(1 << int(i) for i in np.flatnonzero(absent)))
        why = "exited without taking part" if exited.any() else "not at this instruction"
        return WarpSyncError(f"the mask {mask:#010x} names {names}, {why}{others}", place)
