"""The instructions by which threads talk to each other: shuffles, votes, reductions, barriers.

Who may go on is decided first (`warp_ready`, and the scheduler for barriers of a block); then the
instruction is executed by threads that all take part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UnsupportedInstructionError, WarpSyncError
from .ptx import Instruction
from .threads import Batch, Group

Array = NDArray[Any]

WARP_OPCODES = ("shfl", "vote", "match", "redux")


def member_mask_operand(instruction: Instruction) -> str:
    """The operand that names the lanes which must take part."""
    return instruction.operands[-1]


def is_warp_barrier(instruction: Instruction) -> bool:
    """Whether this is bar.warp.sync."""
    return instruction.opcode in ("bar", "barrier") and instruction.has("warp")


def is_block_barrier(instruction: Instruction) -> bool:
    """Whether this is a barrier of the block: bar.sync, bar.arrive, bar.red or barrier."""
    return instruction.opcode in ("bar", "barrier") and not instruction.has("warp", "cluster")


def lane_names(mask: int) -> str:
    """'lanes 3, 5' of a mask."""
    lanes = [i for i in range(32) if mask >> i & 1]
    if len(lanes) > 4 and lanes[-1] - lanes[0] == len(lanes) - 1:
        return f"lanes {lanes[0]} to {lanes[-1]}"
    return ("lane " if len(lanes) == 1 else "lanes ") + ", ".join(map(str, lanes))


def _present(batch: Batch, slots: Array) -> Array:
    """For each warp of the batch the mask of its lanes among these slots."""
    here = np.zeros(batch.slots, bool)
    here[slots] = True
    bits = np.packbits(here.reshape(-1, 32), axis=1, bitorder="little")
    return bits.view(np.uint32)[:, 0]


def warp_ready(instruction: Instruction, group: Group, mask: Array) -> Array | None:
    """Which threads may go on: those whose whole mask is here. None if all may.

    Naming a lane that has exited is an error, whether it exited before or after the others arrived;
    a lane that the block does not have may be named.
    """
    batch = group.batch
    mask = mask.astype(np.uint32)
    own = np.uint32(1) << group.lanes.astype(np.uint32)
    if mask.size > 1 or int(mask[0]) != 0xFFFFFFFF:
        outside = group.spread(mask & own == 0)
        if outside.any():
            lane = int(np.flatnonzero(outside)[0])
            raise WarpSyncError(
                f"the mask {int(group.spread(mask)[lane]):#010x} does not name the calling thread",
                group.place(instruction, lane),
            )
    if group.complete and mask.size == 1:
        return None
    warps = group.warps
    named = group.spread(mask)
    if batch.missing:
        last = (warps + 1) * 32 % batch.padded == 0
        named = np.where(last, named & ~np.uint32(batch.missing), named)
    exited = _present(batch, np.flatnonzero(batch.exited))[warps]
    gone = named & exited
    if gone.any():
        lane = int(np.flatnonzero(gone)[0])
        raise WarpSyncError(
            f"the mask {int(group.spread(mask)[lane]):#010x} names {lane_names(int(gone[lane]))}, "
            "exited without taking part",
            group.place(instruction, lane),
        )
    present = _present(batch, group.slots)[warps]
    ready = (named & ~present) == 0
    if mask.size > 1:
        _check_equal_masks(instruction, group, named, ready)
    return None if ready.all() else ready


def _check_equal_masks(instruction: Instruction, group: Group, named: Array, ready: Array) -> None:
    """Threads that name each other must use the same mask."""
    table = np.zeros(group.batch.slots, np.uint32)
    table[group.slots] = named
    table = table.reshape(-1, 32)[group.warps]
    partners = (named[:, None] >> np.arange(32, dtype=np.uint32)) & 1 != 0
    wrong = (partners & (table != named[:, None])).any(axis=1) & ready
    if wrong.any():
        lane = int(np.flatnonzero(wrong)[0])
        raise WarpSyncError(
            f"lanes named by the mask {int(named[lane]):#010x} use another mask",
            group.place(instruction, lane),
        )


def _by_warp(group: Group, value: Array, fill: Any) -> Array:
    """Values as [warps of the batch, 32], `fill` where a lane does not take part."""
    table = np.full(group.batch.slots, fill, value.dtype)
    table[group.slots] = value
    return table.reshape(-1, 32)


def shuffle(instruction: Instruction) -> Callable[..., tuple[Array, Array]]:
    """shfl.sync: value read, and whether the source lane was in range."""
    mode = instruction.one_of("up", "down", "bfly", "idx")

    def compute(group: Group, a: Array, b: Array, c: Array) -> tuple[Array, Array]:
        lane = group.lanes
        b, c = b.astype(np.int64) & 31, c.astype(np.int64)
        clamp, segment = c & 31, (c >> 8) & 31
        highest = (lane & segment) | (clamp & ~segment)
        lowest = lane & segment
        if mode == "up":
            source = lane - b
            valid = source >= highest
        elif mode == "down":
            source = lane + b
            valid = source <= highest
        elif mode == "bfly":
            source = lane ^ b
            valid = source <= highest
        else:
            source = lowest | (b & ~segment)
            valid = source <= highest
        source = group.slots - lane + np.where(valid, source, lane)
        value = group.spread(a)
        if group.complete and group.batch.padded == group.batch.threads:
            return value[source], valid
        position = np.full(group.batch.slots, -1)
        position[group.slots] = np.arange(len(group))
        found = position[source]
        if (found < 0).any():
            thread = int(np.flatnonzero(found < 0)[0])
            raise WarpSyncError(
                f"reads lane {int(source[thread]) & 31}, which does not take part",
                group.place(instruction, thread),
            )
        return value[found], valid

    return compute


def vote(instruction: Instruction) -> Callable[..., Array]:
    """vote.sync.{all, any, uni, ballot}, over the lanes that the mask names."""
    mode = instruction.one_of("all", "any", "uni", "ballot")

    def compute(group: Group, predicate: Array, mask: Array) -> Array:
        voted = _by_warp(group, group.spread(predicate), False)
        bits = np.packbits(voted, axis=1, bitorder="little").view(np.uint32)[:, 0]
        named = (
            group.spread(mask).astype(np.uint32) & _present(group.batch, group.slots)[group.warps]
        )
        true = bits[group.warps] & named
        results: dict[str, Array] = {
            "ballot": true,
            "any": true != 0,
            "all": true == named,
            "uni": (true == named) | (true == 0),
        }
        return results[mode]

    return compute


def match(instruction: Instruction) -> Callable[..., tuple[Array, Array]]:
    """match.sync.{any, all}: the lanes with an equal value, and whether that is every lane."""
    every = instruction.has("all")

    def compute(group: Group, value: Array, mask: Array) -> tuple[Array, Array]:
        value = group.spread(value)
        table = _by_warp(group, value, value.dtype.type(0))[group.warps]
        named = (
            group.spread(mask).astype(np.uint32) & _present(group.batch, group.slots)[group.warps]
        )
        equal = np.packbits(table == value[:, None], axis=1, bitorder="little").view(np.uint32)[
            :, 0
        ]
        equal = equal & named
        if every:
            agreed = equal == named
            return np.where(agreed, named, np.uint32(0)), agreed
        return equal, equal == named

    return compute


_REDUCTIONS: dict[str, tuple[np.ufunc, Callable[[np.dtype[Any]], Any]]] = {
    "add": (np.add, lambda t: t.type(0)),
    "min": (np.minimum, lambda t: np.iinfo(t).max),
    "max": (np.maximum, lambda t: np.iinfo(t).min),
    "and": (np.bitwise_and, lambda t: t.type(-1) if t.kind == "i" else np.iinfo(t).max),
    "or": (np.bitwise_or, lambda t: t.type(0)),
    "xor": (np.bitwise_xor, lambda t: t.type(0)),
}


def warp_reduce(instruction: Instruction) -> Callable[..., Array]:
    """redux.sync over the lanes that share a mask."""
    function, neutral = _REDUCTIONS[instruction.one_of(*_REDUCTIONS)]
    if instruction.types[-1] == "f32":
        raise UnsupportedInstructionError(f"unsupported PTX instruction: `{instruction.text}`")

    def compute(group: Group, value: Array, mask: Array) -> Array:
        value = group.spread(value)
        start = neutral(value.dtype)
        table = _by_warp(group, value, start)[group.warps]
        named = group.spread(mask).astype(np.uint32)
        partners = (named[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1) != 0
        terms = np.where(partners, table, start)
        total: Array = function.reduce(terms, axis=1, dtype=value.dtype)
        return total

    return compute


def active_mask(group: Group) -> Array:
    """activemask: the lanes of the warp in the same group."""
    return _present(group.batch, group.slots)[group.warps]


def barrier_reduce(instruction: Instruction) -> Callable[[Group, Array], Array]:
    """bar.red.{popc, and, or} over the threads of a block, all of which are in the group."""
    mode = instruction.one_of("popc", "and", "or")

    def compute(group: Group, predicate: Array) -> Array:
        blocks = group.local_blocks
        count = group.batch.block_count
        true = np.bincount(blocks, group.spread(predicate), count).astype(np.uint32)[blocks]
        if mode == "popc":
            return true
        if mode == "or":
            return true > 0
        every: Array = true == np.bincount(blocks, minlength=count)[blocks]
        return every

    return compute
