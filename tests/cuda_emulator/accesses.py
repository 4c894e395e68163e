"""The instructions that touch memory, as they are executed: loads, stores and atomic operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arithmetic as ar
from .errors import OutOfBoundsError, UninitializedReadError, UnsupportedInstructionError
from .memory import LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW
from .ptx import Instruction
from .threads import Group

Array = NDArray[Any]

WINDOWS = ((PARAMETER_WINDOW, "param"), (LOCAL_WINDOW, "local"), (SHARED_WINDOW, "shared"))


# Accesses that are no race: a thread may wait for what another writes.
STRONG = ("volatile", "relaxed", "acquire", "release", "mmio")


class Access:
    """What loads, stores and atomic operations share: how wide, where, and which address."""

    noun = "access"

    def __init__(self, instruction: Instruction, size: int, count: int, displacement: int) -> None:
        self.instruction = instruction
        self.size = size
        self.count = count
        self.bytes = size * count
        self.shift = (self.bytes).bit_length() - 1
        self.displacement = displacement
        self.space = instruction.one_of("global", "shared", "local", "param", "const") or "generic"
        # accesses which the memory model orders are no data races
        self.strong = instruction.has(*STRONG)
        self.word = np.dtype(f"u{size}")

    def resolve(self, address: Array) -> tuple[str, Array]:
        """The state space and the byte offsets in it, for generic addresses too."""
        if address.dtype == np.uint32:  # addresses of 32 bits wrap around
            offsets = (address.view(np.int32) + np.int32(self.displacement)).astype(np.int64)
        else:
            offsets = address.astype(np.int64) + self.displacement
        if self.space != "generic":
            return self.space, offsets
        for window, space in WINDOWS:
            inside = offsets >= window
            if inside.all():
                return space, offsets - window
            if inside.any():
                raise UnsupportedInstructionError(
                    f"one instruction reaches {space} and other memory: `{self.instruction.text}`"
                )
        return "global", offsets


def _rows(values: Array, count: int) -> Array:
    return values if count == 1 else values.reshape(-1, count)


class Load(Access):
    """ld, ldu: returns one array of words for each element of the vector."""

    noun = "read"

    def __call__(self, group: Group, address: Array) -> Array | tuple[Array, ...]:
        space, offsets = self.resolve(address)
        batch = group.batch
        launch = batch.launch
        words: Array
        if space in ("global", "const"):
            memory = launch.memory
            offsets -= memory.base
            allocations = memory.locate(self, group, offsets)
            rows = offsets >> self.shift
            memory.check_written(self, group, allocations, rows)
            if launch.check_races:
                launch.races.record(self, group, allocations, group.spread(offsets))
            words = memory.views(self.size, self.count)[0][rows]
        elif space == "shared":
            places = batch.shared.locate(self, group, group.spread(offsets))
            batch.shared.record(self, group, places)
            words = _rows(batch.shared.bytes.view(self.word), self.count)[places >> self.shift]
        elif space == "local":
            places = local_places(self, group, offsets)
            fresh = batch.local_written[places[:, None] + np.arange(self.bytes)].min(axis=1) == 0
            if fresh.any():
                lane = int(np.flatnonzero(fresh)[0])
                raise UninitializedReadError(
                    f"read of {self.bytes} bytes of local memory that nothing has written, byte "
                    f"{int(group.spread(offsets)[lane])}",
                    group.place(self.instruction, lane),
                )
            words = _rows(batch.local.view(self.word), self.count)[places >> self.shift]
        else:
            limit = len(launch.parameters)
            if int(offsets.min()) < 0 or int(offsets.max()) + self.bytes > limit:
                raise OutOfBoundsError(
                    f"read outside the {limit} bytes of kernel parameters",
                    group.place(self.instruction, 0),
                )
            words = _rows(
                launch.parameters[: limit // self.bytes * self.bytes].view(self.word), self.count
            )[offsets >> self.shift]
        if self.count == 1:
            return words
        return tuple(np.ascontiguousarray(words.T))


def local_places(access: Access, group: Group, offsets: Array) -> Array:
    """Byte offsets in the local memory of a batch."""
    batch = group.batch
    if int(offsets.min()) < 0 or int(offsets.max()) + access.bytes > batch.local_bytes:
        bad = group.spread((offsets < 0) | (offsets + access.bytes > batch.local_bytes))
        lane = int(np.flatnonzero(bad)[0])
        raise OutOfBoundsError(
            f"{access.noun} of {access.bytes} bytes at byte {int(group.spread(offsets)[lane])} of "
            f"local memory, which has {batch.local_bytes} bytes",
            group.place(access.instruction, lane),
        )
    return group.slots * batch.local_stride + offsets


class Store(Access):
    """st: takes one array of words for each element of the vector."""

    noun = "write"

    def __call__(self, group: Group, address: Array, *values: Array) -> None:
        space, offsets = self.resolve(address)
        batch = group.batch
        launch = batch.launch
        offsets = group.spread(offsets)
        data: Array
        if self.count == 1:
            data = values[0]
        else:
            data = np.empty((len(offsets), self.count), self.word)
            for i, value in enumerate(values):
                data[:, i] = value
        if space == "global":
            memory = launch.memory
            offsets = offsets - memory.base
            allocations = memory.locate(self, group, offsets)
            for allocation in allocations:
                if allocation.constant:
                    raise OutOfBoundsError(
                        f"write to the constant {allocation}", group.place(self.instruction, 0)
                    )
            if launch.check_races:
                launch.races.record(self, group, allocations, offsets)
            rows = offsets >> self.shift
            content, shadow = memory.views(self.size, self.count)
            content[rows] = data
            if not all(a.written for a in allocations):
                shadow[rows] = int.from_bytes(b"\1" * self.size, "little")
        elif space == "shared":
            places = batch.shared.locate(self, group, offsets)
            batch.shared.record(self, group, places)
            _rows(batch.shared.bytes.view(self.word), self.count)[places >> self.shift] = data
        elif space == "local":
            places = local_places(self, group, offsets)
            _rows(batch.local.view(self.word), self.count)[places >> self.shift] = data
            batch.local_written[places[:, None] + np.arange(self.bytes)] = 1
        else:
            raise UnsupportedInstructionError(f"store to {space} memory: `{self.instruction.text}`")


def _increment(old: Array, limit: Array) -> Array:
    new: Array = np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))
    return new


def _decrement(old: Array, limit: Array) -> Array:
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


ATOMICS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": _increment,
    "dec": _decrement,
}


class Atomic(Access):
    """atom, red: returns the old words. Threads take turns in the order of their numbers, or in
    the opposite one."""

    noun = "atomic operation"

    def __init__(
        self, instruction: Instruction, dtype: np.dtype[Any], kind: str, displacement: int
    ) -> None:
        super().__init__(instruction, dtype.itemsize, 1, displacement)
        self.dtype = dtype
        self.kind = kind
        self.operation = instruction.one_of(*ATOMICS, "cas")
        if not self.operation or instruction.has("v2", "v4", "v8"):
            raise UnsupportedInstructionError(f"unsupported PTX instruction: `{instruction.text}`")

    def _apply(self, old: Array, value: Array, other: Array | None) -> Array:
        if self.operation == "cas":
            assert other is not None
            return np.where(old == value, other, old)
        if self.kind in ("f16x2", "bf16x2", "bf16"):
            return self._apply_half(old, value)
        return ATOMICS[self.operation](old, value)

    def _apply_half(self, old: Array, value: Array) -> Array:
        function = ATOMICS[self.operation]
        if self.kind == "f16x2":
            pair = function(old[:, None].view(np.float16), value[:, None].view(np.float16))
            return np.ascontiguousarray(pair).view(np.uint32)[:, 0]
        a, b = (ar.bf16_to_float(x.reshape(-1, 1).view(np.uint16)) for x in (old, value))
        return np.ascontiguousarray(ar.float_to_bf16(function(a, b))).view(old.dtype)[:, 0]

    def __call__(
        self, group: Group, address: Array, value: Array, other: Array | None = None
    ) -> Array:
        space, offsets = self.resolve(address)
        batch = group.batch
        launch = batch.launch
        offsets = group.spread(offsets)
        value = group.spread(value)
        other = None if other is None else group.spread(other)
        if space == "global":
            memory = launch.memory
            offsets = offsets - memory.base
            allocations = memory.locate(self, group, offsets)
            rows = offsets >> self.shift
            memory.check_written(self, group, allocations, rows)
            if launch.check_races:
                launch.races.record_atomic(self, group, allocations, offsets)
            content = memory.views(self.size)[0].view(self.dtype)
        elif space == "shared":
            places = batch.shared.locate(self, group, offsets)
            batch.shared.record(self, group, places, atomic=True)
            launch.shared_atomic = group.place(self.instruction, 0)
            rows = places >> self.shift
            content = batch.shared.bytes.view(self.dtype)
        else:
            raise UnsupportedInstructionError(
                f"atomic in {space} memory: `{self.instruction.text}`"
            )
        old = np.empty(len(rows), self.dtype)
        for turn in _turns(rows, launch.backwards):
            where = rows[turn]
            before = content[where]
            old[turn] = before
            content[where] = self._apply(
                before, value[turn], None if other is None else other[turn]
            )
        return old


def _turns(rows: Array, backwards: bool) -> list[Array]:
    """Positions in rounds: no row occurs twice in one, the n-th has the n-th occurrences, counted
    from the last of the threads if backwards."""
    if backwards:
        return [len(rows) - 1 - turn for turn in _turns(rows[::-1], backwards=False)]
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if len(first) == len(rows):
        return [np.arange(len(rows))]
    rank = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    by_rank = np.argsort(rank, kind="stable")
    ends = np.cumsum(np.bincount(rank))
    return [np.sort(order[part]) for part in np.split(by_rank, ends[:-1])]
