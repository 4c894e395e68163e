"""The device's memory: allocations in one address range, and the shadows that find misuse.

Device pointers are real host addresses inside the range, so that host and device pointers are told
apart by value and memory of the device can be seen as a numpy array.
"""

from __future__ import annotations

import bisect
import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import (
    GlobalMemoryRaceError,
    MisalignedAddressError,
    NonCoherentReadError,
    OutOfBoundsError,
    Place,
    SharedMemoryRaceError,
    UninitializedReadError,
)

if TYPE_CHECKING:
    from .accesses import Access
    from .threads import Batch, Group

Array = NDArray[Any]

ARENA_BYTES = 1 << 36  # address space only: pages exist once touched
ALIGNMENT = 512  # of an allocation, and the least gap after it
PAGE = mmap.PAGESIZE
SHARED_WINDOW = 1 << 60  # generic addresses of shared, local and parameter memory
LOCAL_WINDOW = 1 << 61
PARAMETER_WINDOW = 1 << 62
NOBODY = -1
SEVERAL = -2


@dataclass(eq=False)
class Allocation:
    """A range of device memory: [start, start + size), offsets from the beginning of the arena."""

    name: str
    start: int
    size: int
    unit: int  # bytes of an element; accesses narrower than this are unusual
    written: bool = False  # every byte
    freed: bool = False
    constant: bool = False

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.start + self.size

    @property
    def base(self) -> int:
        """The start rounded down to an aligned offset, the origin of the shadows."""
        return self.start // ALIGNMENT * ALIGNMENT

    def __str__(self) -> str:
        return f"'{self.name}' ({self.size} bytes{', freed' if self.freed else ''})"


class GlobalMemory:
    """Allocations, their bytes, and for each byte whether it was written."""

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
        self._map = mmap.mmap(-1, ARENA_BYTES, flags=flags)
        self._shadow_map = mmap.mmap(-1, ARENA_BYTES, flags=flags)
        self.bytes = np.frombuffer(self._map, np.uint8)
        self.shadow = np.frombuffer(self._shadow_map, np.uint8)  # 1 where written
        self.base = int(self.bytes.ctypes.data)
        self._views: dict[tuple[int, int], tuple[Array, Array]] = {}
        self._allocations: list[Allocation] = []
        self._starts: list[int] = []
        self._top = ALIGNMENT
        self.in_use = self.most_in_use = 0  # bytes

    def allocate(self, size: int, name: str, unit: int = 1, offset_bytes: int = 0) -> Allocation:
        """A new allocation, `offset_bytes` behind an aligned address."""
        if size + offset_bytes >= PAGE:  # whole pages, so that free() can give them back
            self._top = -(-self._top // PAGE) * PAGE
        start = self._top + offset_bytes
        top = -(-(start + size) // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        if top > ARENA_BYTES:
            raise MemoryError(f"the emulated device has no {size} bytes left for '{name}'")
        self._top = top
        allocation = Allocation(name, start, size, unit)
        self._allocations.append(allocation)
        self._starts.append(start)
        self.in_use += size
        self.most_in_use = max(self.most_in_use, self.in_use)
        return allocation

    def free(self, allocation: Allocation) -> None:
        """End of an allocation; its addresses are never used again."""
        allocation.freed = True
        self.in_use -= allocation.size
        first = -(-allocation.start // PAGE) * PAGE
        last = allocation.end // PAGE * PAGE
        if last > first:
            for pages in (self._map, self._shadow_map):
                pages.madvise(mmap.MADV_DONTNEED, first, last - first)

    def find(self, offset: int) -> Allocation | None:
        """The allocation, live or freed, that starts last at or before the offset."""
        i = bisect.bisect_right(self._starts, offset) - 1
        return self._allocations[i] if i >= 0 else None

    def holding(self, address: int) -> Allocation | None:
        """The live allocation that holds a device pointer."""
        found = self.find(address - self.base)
        if found is None or found.freed or address - self.base >= found.end:
            return None
        return found

    def views(self, size: int, count: int = 1) -> tuple[Array, Array]:
        """Bytes and shadow as rows of `count` unsigned words of `size` bytes."""
        if (size, count) not in self._views:
            word = np.dtype(f"u{size}")
            pair = self.bytes.view(word), self.shadow.view(word)
            if count > 1:
                pair = pair[0].reshape(-1, count), pair[1].reshape(-1, count)
            self._views[size, count] = pair
        return self._views[size, count]

    def read(self, allocation: Allocation) -> Array:
        """The bytes of an allocation (a view)."""
        return self.bytes[allocation.start : allocation.end]

    def contents(self) -> dict[Allocation, tuple[Array, Array]]:
        """Copies of the bytes, and of which are written, of all that a kernel may write."""
        return {
            a: (self.read(a).copy(), self.shadow[a.start : a.end].copy())
            for a in self._allocations
            if not a.freed and not a.constant
        }

    def restore(self, contents: dict[Allocation, tuple[Array, Array]]) -> None:
        """Put them back."""
        for allocation, (content, written) in contents.items():
            self.read(allocation)[:] = content
            self.shadow[allocation.start : allocation.end] = written

    def unwritten(self, allocation: Allocation) -> Array:
        """Offsets of the bytes of an allocation that nothing has written."""
        if allocation.written:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.shadow[allocation.start : allocation.end] == 0)

    def locate(self, access: Access, group: Group, offsets: Array) -> list[Allocation]:
        """Check alignment and bounds of an access to the byte; the allocations it touches."""
        size = access.bytes
        first, last = int(offsets.min()), int(offsets.max())
        if size > 1 and int(np.bitwise_or.reduce(offsets)) & (size - 1):
            lane = int(np.flatnonzero(offsets & (size - 1))[0])
            raise MisalignedAddressError(
                f"misaligned {access.noun} of {size} bytes at {self.describe(int(offsets[lane]))}",
                group.place(access.instruction, lane),
            )
        found = self.find(first)
        if found is not None and not found.freed and last + size <= found.end:
            return [found]
        if not self._starts:
            index = np.full(offsets.shape, -1)
        else:
            index = np.searchsorted(np.array(self._starts), offsets, side="right") - 1
        ends = np.array([a.start if a.freed else a.end for a in self._allocations] + [0])
        bad = (index < 0) | (offsets + size > ends[index])
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            raise OutOfBoundsError(
                f"{access.noun} of {size} bytes outside any allocation, at "
                f"{self.describe(int(offsets[lane]))}, by {int(bad.sum())} threads",
                group.place(access.instruction, lane),
            )
        return [self._allocations[i] for i in np.unique(index)]

    def describe(self, offset: int) -> str:
        """An address, and where it lies relative to the nearest allocation."""
        text = f"address {(offset + self.base) % (1 << 64):#x}"
        before = self.find(offset)
        if before is not None and offset - before.end < (1 << 20):
            where = offset - before.start
            inside = (
                "at byte" if where < before.size else f"{offset - before.end} bytes past the end,"
            )
            return f"{text}, {inside} {where} of {before}"
        after = bisect.bisect_right(self._starts, offset)
        if after < len(self._starts) and self._starts[after] - offset < (1 << 20):
            nearest = self._allocations[after]
            return f"{text}, {nearest.start - offset} bytes before {nearest}"
        return text

    def check_written(
        self, access: Access, group: Group, allocations: list[Allocation], rows: Array
    ) -> None:
        """Raise if a load reads a byte that nothing has written."""
        if all(a.written for a in allocations):
            return
        shadow = self.views(access.size, access.count)[1]
        full = int.from_bytes(b"\1" * access.size, "little")
        bad = shadow[rows] != shadow.dtype.type(full)
        if access.count > 1:
            bad = bad.any(axis=1)
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            raise UninitializedReadError(
                "read of global memory that nothing has written, at "
                f"{self.describe(int(rows[lane]) * access.bytes)}, by {int(bad.sum())} threads",
                group.place(access.instruction, lane),
            )


@dataclass(frozen=True)
class _Fence:
    """What a thread's fence publishes: what it wrote itself, and what the others of its block wrote
    before a barrier at which it met them."""

    time: int
    clock: int  # of Meetings
    thread: int
    met: Array  # of each thread of the block, when

    def covers(self, write: Array) -> bool:
        """Whether it does a write, as in _Footprint.stamp."""
        time, thread, clock = write.tolist()
        known: bool = thread == self.thread or clock < self.met[thread]
        return bool(time <= self.time) and known


_Known = dict[tuple[int, int], _Fence]  # the last fence of a thread of a block, of those known


def _learn(known: _Known, more: _Known) -> None:
    for thread, fence in more.items():
        if thread not in known or known[thread].time < fence.time:
            known[thread] = fence


_NO_WRITE = (0, 0, -1)  # which each fence covers


@dataclass
class _Footprint:
    """Who touched the elements of an allocation during one launch: a block, NOBODY or SEVERAL."""

    granule: int
    writer: Array
    reader: Array
    # When it was written, by which thread of the block, at which clock of Meetings, where fences
    # count
    stamp: Array | None = None
    cached: Array | None = None  # read through the cache that stores do not reach
    touches: Touches | None = None  # of the threads of one batch, once one of them has written
    reads: list[tuple[Array, Array, int, int]] = field(default_factory=list)  # before that
    watcher: Array | None = None  # as reader, of strong loads
    watches: Touches | None = None  # their threads

    @classmethod
    def of(cls, allocation: Allocation, granule: int) -> _Footprint:
        count = -(-(allocation.end - allocation.base) // ALIGNMENT) * ALIGNMENT // granule
        fresh = np.full(count, NOBODY, np.int32)
        return cls(granule, fresh, fresh.copy())


@dataclass
class GlobalRaces:
    """Races in global memory: between the blocks of a launch, and between the threads of a block.

    Nothing orders two blocks, except that what a block wrote before a fence, after which it did an
    atomic operation or a strong store, comes before what another block does after a fence of its
    own that follows an atomic operation or a strong load which saw that. Either may be the fence
    itself (.release, .acquire). A fence is one of its thread: what others of the block wrote it
    publishes if they met at a barrier in between, and so does the operation after it. Fences and
    operations of the scope of a block (.cta) are none to other blocks, to which atomic ones are
    plain writes. Threads of a block are ordered by barriers. A strong load may see what is written
    by strong stores at any time, but a plain store of it is a race.
    """

    memory: GlobalMemory
    granule: int  # bytes of the narrowest access of the kernel
    footprints: dict[Allocation, _Footprint] = field(default_factory=dict)
    now: int = 0  # counts accesses and fences
    fenced: dict[int, _Known] = field(default_factory=dict)  # by block, the fences of its threads
    seen: dict[int, _Known] = field(default_factory=dict)  # by block, those of blocks before it
    met: dict[int, _Known] = field(default_factory=dict)  # seen after its next fence
    published: dict[int, _Known] = field(default_factory=dict)  # by atomic address
    unordered: dict[Allocation, Place] = field(default_factory=dict)  # by which access last
    batch: Batch | None = None  # whose threads' touches are known

    def fence(self, group: Group) -> None:
        """What the threads know to be written is visible to whoever synchronises with them, and
        their blocks see what those had made visible that they have met."""
        self.now += 1
        for block, slot in zip(group.blocks.tolist(), group.slots.tolist(), strict=True):
            self._fence(group, block, slot)
        for block in np.unique(group.blocks).tolist():
            _learn(self.seen.setdefault(block, {}), self.met.pop(block, {}))

    def _fence(self, group: Group, block: int, slot: int) -> None:
        meetings = group.batch.meetings
        first = slot // meetings.padded * meetings.padded
        others = np.arange(first, first + meetings.padded)
        met = meetings.last(np.full(meetings.padded, slot), others, others // 32)
        thread = slot - first
        known = self.fenced.setdefault(block, {})
        known[block, thread] = _Fence(self.now, meetings.clock, thread, met)

    def synchronize(self, access: Access, group: Group, offsets: Array) -> None:
        """An atomic operation, or a strong load or store."""
        self.now += 1
        launch = group.batch.launch
        if not launch.program.fences or access.instruction.has("cta", "cluster"):
            return
        each = (group.blocks.tolist(), group.slots.tolist(), offsets.tolist())
        turns = list(zip(*each, strict=True))
        for block, slot, offset in reversed(turns) if launch.backwards else turns:
            self._synchronize(access, group, block, slot, offset)

    def _synchronize(
        self, access: Access, group: Group, block: int, slot: int, offset: int
    ) -> None:
        known = self.published.get(offset)
        if access.instruction.has("release", "acq_rel"):
            self._fence(group, block, slot)
        if known and access.noun != "write":
            acquires = access.instruction.has("acquire", "acq_rel")
            _learn((self.seen if acquires else self.met).setdefault(block, {}), known)
        if access.noun == "read":
            return
        if access.noun == "write":  # who reads it reads nothing of those who wrote before
            self.published.pop(offset, None)
        meetings = group.batch.meetings
        thread = slot % meetings.padded
        own = np.full(1, slot)
        before = {}  # the fences that come before this
        for key, fence in self.fenced.get(block, {}).items():
            other = own - thread + fence.thread
            if fence.thread == thread or fence.clock < meetings.last(own, other, other // 32)[0]:
                before[key] = fence
        if before:
            known = self.published.setdefault(offset, {})
            _learn(known, self.seen.get(block, {}))
            _learn(known, before)

    def _rows(
        self, access: Access, allocation: Allocation, offsets: Array
    ) -> tuple[_Footprint, Array, int]:
        footprint = self.footprints.get(allocation)
        if footprint is None:
            granule = min(allocation.unit, self.granule)
            footprint = self.footprints[allocation] = _Footprint.of(allocation, granule)
        return (
            footprint,
            (offsets - allocation.base) // access.bytes,
            access.bytes // footprint.granule,
        )

    def _raise(
        self,
        access: Access,
        group: Group,
        offsets: Array,
        bad: Array,
        others: Array,
        stamps: Array,
        how: str,
    ) -> None:
        blocks = group.blocks
        for lane in np.flatnonzero(bad):
            mine = int(blocks[lane])
            fences = self.seen.get(mine, {})
            for one, stamp in zip(others[lane].tolist(), stamps[lane], strict=True):
                known = (fence for (block, _), fence in fences.items() if block == one)
                if one in (NOBODY, mine) or any(fence.covers(stamp) for fence in known):
                    continue
                who = (
                    "several blocks" if one == SEVERAL else f"block {group.batch.block_index(one)}"
                )
                raise GlobalMemoryRaceError(
                    f"{access.noun} of {access.bytes} bytes that {who} {how} in the same launch, "
                    f"at {self.memory.describe(int(offsets[lane]))}",
                    group.place(access.instruction, int(lane)),
                )

    def record(
        self, access: Access, group: Group, allocations: list[Allocation], offsets: Array
    ) -> None:
        """Note who loads or stores, and raise on a conflict with another block or thread."""
        if access.strong:
            self.unordered[allocations[0]] = group.place(access.instruction, 0)
            self.synchronize(access, group, offsets)
            if access.noun == "write":
                return
        self.now += 1
        if group.batch is not self.batch:
            self.batch = group.batch
            for footprint in self.footprints.values():
                footprint.touches = footprint.watches = None
                footprint.reads.clear()
        for allocation in allocations:
            if allocation.constant:
                continue
            lanes: Any = slice(None)
            if len(allocations) > 1:
                lanes = np.flatnonzero((offsets >= allocation.start) & (offsets < allocation.end))
            self._record(access, group, allocation, offsets, lanes)

    def _record(
        self, access: Access, group: Group, allocation: Allocation, offsets: Array, lanes: Any
    ) -> None:
        footprint, rows, wide = self._rows(access, allocation, offsets[lanes])
        blocks = group.blocks[lanes]
        me = blocks
        shape = (-1, wide) if wide > 1 else (-1,)
        if wide > 1:
            me = blocks[:, None]
        writer, reader = footprint.writer.reshape(shape), footprint.reader.reshape(shape)

        def complain(owners: Array, how: str) -> None:
            wrong = (owners != NOBODY) & (owners != me)
            if wrong.any():
                bad = wrong.any(axis=1) if wide > 1 else wrong
                everywhere = np.zeros(len(offsets), bool)
                everywhere[lanes] = bad
                all_owners = np.full((len(offsets), wide), NOBODY)
                all_owners[lanes] = owners.reshape(-1, wide)
                stamps = np.full((len(offsets), wide, 3), _NO_WRITE)
                if footprint.stamp is not None and how == "writes":
                    stamps[lanes] = footprint.stamp.reshape(-1, wide, 3)[rows]
                self._raise(access, group, offsets, everywhere, all_owners, stamps, how)

        def note(reader: Array) -> None:
            before = reader[rows]
            foreign = (before != NOBODY) & (before != me)
            reader[rows] = np.where(foreign, SEVERAL, me) if foreign.any() else me
            mixed = reader[rows] != me
            if mixed.any():
                reader[rows] = np.where(mixed, SEVERAL, reader[rows])

        complain(writer[rows], "writes")
        if access.strong:
            if footprint.watcher is None:
                footprint.watcher = np.full(len(footprint.writer), NOBODY, np.int32)
            note(footprint.watcher.reshape(shape))
            self._record_threads(access, group, footprint, offsets, rows, lanes)
            return
        self._record_cached(access, group, footprint, offsets, rows, lanes)
        if access.noun == "read":
            note(reader)
        else:
            complain(reader[rows], "reads")
            if footprint.watcher is not None:
                complain(footprint.watcher.reshape(shape)[rows], "waits for")
            self._stamp(group, footprint, group.slots[lanes], rows, wide)
            writer[rows] = me
            complain(writer[rows], "writes")
        self._record_threads(access, group, footprint, offsets, rows, lanes)

    def _record_cached(
        self,
        access: Access,
        group: Group,
        footprint: _Footprint,
        offsets: Array,
        rows: Array,
        lanes: Any,
    ) -> None:
        """What a kernel reads through the non-coherent cache it may not write."""
        wide = access.bytes // footprint.granule
        if access.noun == "read" and not access.instruction.has("nc"):
            return
        if access.noun == "read":
            if footprint.cached is None:
                footprint.cached = np.zeros(len(footprint.writer), bool)
            footprint.cached.reshape(-1, wide)[rows] = True
            other, how = footprint.writer != NOBODY, "writes"
        elif footprint.cached is None:
            return
        else:
            other, how = footprint.cached, "reads through its non-coherent cache"
        bad = other.reshape(-1, wide)[rows].any(axis=1)
        if bad.any():
            lane = int(np.arange(len(offsets))[lanes][np.flatnonzero(bad)[0]])
            through = "through the non-coherent cache " if access.noun == "read" else ""
            raise NonCoherentReadError(
                f"{access.noun} of {access.bytes} bytes {through}that the same launch {how}, at "
                f"{self.memory.describe(int(offsets[lane]))}",
                group.place(access.instruction, lane),
            )

    def _record_threads(
        self,
        access: Access,
        group: Group,
        footprint: _Footprint,
        offsets: Array,
        rows: Array,
        lanes: Any,
    ) -> None:
        """Races between the threads of a block. Most memory is either read or written: touches are
        looked at once both are."""
        meetings = group.batch.meetings
        slots = group.slots[lanes]
        wide = access.bytes // footprint.granule
        if access.strong and footprint.watches is None:
            footprint.watches = Touches(meetings, len(footprint.writer))
        if footprint.touches is None:
            if access.strong:
                self._watch(footprint, slots, rows, wide)
                return
            if access.noun == "read":
                footprint.reads.append((slots, rows, wide, meetings.clock))
                return
            footprint.touches = Touches(meetings, len(footprint.writer))
            for readers, read, many, time in footprint.reads:
                for step in range(many):
                    footprint.touches.read(readers, read * many + step, time)
            footprint.reads.clear()
        touches = footprint.touches

        def complain(bad: Array, others: Array, did: str) -> None:
            if not bad.any():
                return
            at = int(np.flatnonzero(bad)[0])
            lane = int(np.arange(len(offsets))[lanes][at])
            other = int(others[at])
            who = f"thread {group.batch.thread_index(other)}" if other >= 0 else "other threads"
            raise GlobalMemoryRaceError(
                f"{access.noun} of {access.bytes} bytes that {who} of the block {did} with no "
                f"barrier between, at {self.memory.describe(int(offsets[lane]))}",
                group.place(access.instruction, lane),
            )

        for step in range(wide):
            e = rows * wide + step
            complain(*touches.written(slots, e), "wrote")
            if access.strong:
                continue
            if access.noun == "read":
                touches.read(slots, e, meetings.clock)
            else:
                complain(*touches.was_read(slots, e), "read")
                if footprint.watches is not None:
                    complain(*footprint.watches.was_read(slots, e), "waits for")
                complain(*touches.write(slots, e), "writes")
        if access.strong:
            self._watch(footprint, slots, rows, wide)

    @staticmethod
    def _watch(footprint: _Footprint, slots: Array, rows: Array, wide: int) -> None:
        """Note threads that make strong loads."""
        watches = footprint.watches
        assert watches is not None
        for step in range(wide):
            watches.read(slots, rows * wide + step, watches.meetings.clock)

    def record_atomic(
        self, access: Access, group: Group, allocations: list[Allocation], offsets: Array
    ) -> None:
        """Note an atomic operation: a race only with plain accesses of other blocks."""
        blocks = group.blocks
        own = access.instruction.has("cta")
        self.synchronize(access, group, offsets)
        for allocation in allocations:
            footprint, rows, wide = self._rows(access, allocation, offsets)
            inside = (offsets >= allocation.start) & (offsets < allocation.end)
            self.unordered[allocation] = group.place(
                access.instruction, int(np.flatnonzero(inside)[0])
            )
            rows = np.where(inside, rows, 0)
            self._check_blocks(access, group, offsets, footprint, rows, inside, "writes")
            self._check_blocks(access, group, offsets, footprint, rows, inside, "reads")
            if own:
                written = rows[inside]
                footprint.writer.reshape(-1, wide)[written] = blocks[inside, None]
                self._stamp(group, footprint, group.slots[inside], written, wide)
                self._check_blocks(access, group, offsets, footprint, rows, inside, "writes")

    def _stamp(
        self, group: Group, footprint: _Footprint, slots: Array, rows: Array, wide: int
    ) -> None:
        """Note when the elements were written, where fences count."""
        if footprint.stamp is None and group.batch.launch.program.fences:
            footprint.stamp = np.full((len(footprint.writer), 3), _NO_WRITE)
        if footprint.stamp is not None:
            batch = group.batch
            threads = slots % batch.padded
            written = footprint.stamp.reshape(-1, wide, 3)
            written[rows, :, 0] = self.now
            written[rows, :, 1] = threads[:, None]
            written[rows, :, 2] = batch.meetings.clock

    def _check_blocks(
        self,
        access: Access,
        group: Group,
        offsets: Array,
        footprint: _Footprint,
        rows: Array,
        inside: Array,
        how: str,
    ) -> None:
        """Raise where an atomic operation meets what another block reads or writes."""
        wide = access.bytes // footprint.granule
        owners = footprint.writer if how == "writes" else footprint.reader
        found = owners.reshape(-1, wide)[rows]
        bad = ((found != NOBODY) & (found != group.blocks[:, None])).any(axis=1) & inside
        if bad.any():
            stamps = np.full((*found.shape, 3), _NO_WRITE)
            if footprint.stamp is not None and how == "writes":
                stamps = footprint.stamp.reshape(-1, wide, 3)[rows]
            self._raise(access, group, offsets, bad, found, stamps, how)


class Meetings:
    """When the threads of a batch met at barriers.

    Times count barriers: an access is ordered after all accesses made before the last barrier of
    the block, and after those of its own warp made before the warp's last barrier.
    """

    def __init__(self, batch: Batch) -> None:
        self.padded = batch.padded
        self.clock = 1
        self.block_time = np.zeros(batch.block_count, np.int64)
        self.warp_time = np.zeros(batch.slots, np.int64)
        # When each thread met the lanes of its warp, once some of these have met without the others
        self.lane_time: Array | None = None
        self.lanes = np.isin(np.arange(batch.slots), batch.live).reshape(-1, 32)
        self.named_time = np.zeros(batch.slots, np.int64)
        self.named_number = np.full(batch.slots, -1, np.int64)

    def block_barrier(self, blocks: Array) -> None:
        """All threads of these blocks met."""
        self.clock += 1
        self.block_time[blocks] = self.clock

    def warp_barrier(self, slots: Array, masks: Array) -> None:
        """These threads met those of their warps that their masks name."""
        self.clock += 1
        if self.lane_time is None and (masks == 0xFFFFFFFF).all():
            self.warp_time[slots] = self.clock
            return
        if self.lane_time is None:
            self.lane_time = np.repeat(self.warp_time[:, None], 32, axis=1)
        met = masks.astype(np.uint32)[:, None] >> np.arange(32, dtype=np.uint32) & 1 != 0
        self.lane_time[slots] = np.where(met, self.clock, self.lane_time[slots])

    def named_barrier(self, slots: Array, number: int) -> None:
        """These threads, not all of their block, met at a numbered barrier."""
        self.clock += 1
        self.named_time[slots] = self.clock
        self.named_number[slots] = number

    def last(self, slots: Array, others: Array, warps: Array) -> Array:
        """When each thread last met another, or (SEVERAL) all of the other warp's, at a barrier."""
        block = self.block_time[slots // self.padded]
        within = self.warp_time[slots]
        if self.lane_time is not None:
            # of several lanes the one met longest ago
            every = np.where(self.lanes[slots // 32], self.lane_time[slots], self.clock).min(axis=1)
            within = np.where(others >= 0, self.lane_time[slots, others % 32], every)
        together = np.where(warps == slots // 32, within, 0)
        met: Array = np.maximum(block, together)
        if self.clock > 1 and (self.named_number >= 0).any():
            known = np.where(others >= 0, others, slots)
            same = (self.named_number[slots] == self.named_number[known]) & (others >= 0)
            met = np.maximum(met, np.where(same, self.named_time[known], 0))
        return met


class Touches:
    """Which threads of a batch touched the elements of a memory when. Of threads of other blocks
    nothing is said here."""

    def __init__(self, meetings: Meetings, elements: int) -> None:
        self.meetings = meetings
        self.writer = np.full(elements, NOBODY, np.int64)  # slot of the last writer
        self.write_time = np.full(elements, -1, np.int64)
        self.reader = np.full(elements, NOBODY, np.int64)
        self.reader_warp = np.full(elements, NOBODY, np.int64)
        self.reader_block = np.full(elements, NOBODY, np.int64)
        self.read_time = np.full(elements, -1, np.int64)

    def read(self, slots: Array, e: Array, time: int) -> None:
        """These threads read an element each."""
        warps, blocks = slots // 32, slots // self.meetings.padded
        reader = self.reader[e]
        met = self.meetings.last(slots, reader, self.reader_warp[e])
        recent = (reader != NOBODY) & (reader != slots) & (self.read_time[e] >= met)
        recent &= self.reader_block[e] == blocks
        warp_before = self.reader_warp[e]
        self.reader[e] = np.where(recent, SEVERAL, slots)
        self.reader_warp[e] = np.where(recent & (warp_before != warps), SEVERAL, warps)
        self.reader_block[e] = blocks
        crowd = (self.reader[e] != slots) & (self.reader_block[e] == blocks)
        if crowd.any():
            several_warps = crowd & (self.reader_warp[e] != warps)
            self.reader[e[crowd]] = SEVERAL
            self.reader_warp[e[several_warps]] = SEVERAL
        self.read_time[e] = time

    def written(self, slots: Array, e: Array, atomic: bool = False) -> tuple[Array, Array]:
        """Where another thread wrote with no barrier since, and which."""
        writer = self.writer[e]
        met = self.meetings.last(slots, writer, writer // 32)
        bad = (writer != slots) & (self.write_time[e] >= met) & (writer != NOBODY)
        if atomic:
            bad &= writer != SEVERAL
        padded = self.meetings.padded
        return bad & ((writer < 0) | (writer // padded == slots // padded)), writer

    def was_read(self, slots: Array, e: Array) -> tuple[Array, Array]:
        """The same of reads."""
        reader = self.reader[e]
        met = self.meetings.last(slots, reader, self.reader_warp[e])
        conflict = (reader != slots) & (reader != NOBODY) & (self.read_time[e] >= met)
        return conflict & (self.reader_block[e] == slots // self.meetings.padded), reader

    def write(self, slots: Array, e: Array, atomic: bool = False) -> tuple[Array, Array]:
        """These threads write an element each; where another of their block does too."""
        self.writer[e] = SEVERAL if atomic else slots
        self.write_time[e] = self.meetings.clock
        now = self.writer[e]
        padded = self.meetings.padded
        return (now != slots) & (now // padded == slots // padded) & (not atomic), now


class SharedMemory:
    """Shared memory of the blocks of a batch, and who touched each element when."""

    def __init__(self, batch: Batch, size: int, granule: int) -> None:
        self.batch = batch
        self.size = size
        self.granule = granule
        self.stride = -(-max(size, 1) // 16) * 16
        self.bytes = np.full(batch.block_count * self.stride, 0xCD, np.uint8)
        self.touches = Touches(batch.meetings, batch.block_count * self.stride // granule)

    def locate(self, access: Access, group: Group, offsets: Array) -> Array:
        """Check alignment and bounds; byte offsets into `bytes`."""
        size = access.bytes
        bad = offsets & (size - 1) != 0
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            raise MisalignedAddressError(
                f"misaligned {access.noun} of {size} bytes at byte {int(offsets[lane])} of "
                "shared memory",
                group.place(access.instruction, lane),
            )
        bad = (offsets < 0) | (offsets + size > self.size)
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            raise OutOfBoundsError(
                f"{access.noun} of {size} bytes at byte {int(offsets[lane])} of shared memory, "
                f"which has {self.size} bytes{self.batch.shared_name(int(offsets[lane]))}",
                group.place(access.instruction, lane),
            )
        return group.local_blocks * self.stride + offsets

    def record(self, access: Access, group: Group, places: Array, atomic: bool = False) -> None:
        """Note who touches the elements; raise on a race or a read of what nothing has written."""
        slots, touches = group.slots, self.touches
        for step in range(0, access.bytes, self.granule):
            e = (places + step) // self.granule
            if access.noun != "write":
                fresh = touches.write_time[e] < 0
                if fresh.any():
                    lane = int(np.flatnonzero(fresh)[0])
                    where = int(places[lane]) % self.stride + step
                    raise UninitializedReadError(
                        f"read of shared memory that nothing has written, byte {where}"
                        f"{self.batch.shared_name(where)}",
                        group.place(access.instruction, lane),
                    )
            self._complain(access, group, places, *touches.written(slots, e, atomic), "wrote")
            if access.noun == "read":
                touches.read(slots, e, self.batch.meetings.clock)
            else:
                self._complain(access, group, places, *touches.was_read(slots, e), "read")
                self._complain(access, group, places, *touches.write(slots, e, atomic), "writes")

    def _complain(
        self, access: Access, group: Group, places: Array, bad: Array, others: Array, did: str
    ) -> None:
        if not bad.any():
            return
        lane = int(np.flatnonzero(bad)[0])
        other = int(others[lane])
        who = f"thread {self.batch.thread_index(other)}" if other >= 0 else "other threads"
        where = int(places[lane]) % self.stride
        raise SharedMemoryRaceError(
            f"{access.noun} of shared memory that {who} {did} with no barrier between, byte {where}"
            f"{self.batch.shared_name(where)}",
            group.place(access.instruction, lane),
        )
