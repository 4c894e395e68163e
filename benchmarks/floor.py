"""The least time in which a work can be done: its memory moved at the speed of a copy.

Two floors: into memory that exists, and, as every call of PyTorch does, into fresh memory, which
the system has to map and to zero where an output is large. Neither is below the time of an operator
that computes nothing.
"""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.timing import Call
from benchmarks.works import Pass, Traffic

HUGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


def advise_huge_pages(tensor: Tensor) -> None:
    """The cheapest fresh memory: the system maps 2 MiB at a time instead of 4 KiB."""
    begin = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    end = (tensor.data_ptr() + tensor.nbytes) // HUGE_PAGE * HUGE_PAGE
    if sys.platform == "linux" and tensor.is_cpu and end > begin:
        length = ctypes.c_size_t(end - begin)
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), length, MADV_HUGEPAGE)


def fresh_copy(source: Tensor) -> Tensor:
    result = torch.empty_like(source)
    if source.nbytes >= 2 * HUGE_PAGE:
        advise_huge_pages(result)
    return result.copy_(source)


def empty_operator(work_pass: Pass, x: Tensor) -> Call:
    """Calls that compute nothing: they cost dispatch, a new tensor and autograd's engine."""
    if work_pass == "forward":
        return lambda: torch.empty_like(x)
    leaf, upstream = x.detach().requires_grad_(), torch.empty_like(x)
    if work_pass == "forward+backward":
        return lambda: torch.autograd.grad(leaf.view_as(leaf), leaf, upstream)
    view = leaf.view_as(leaf)
    return lambda: torch.autograd.grad(view, leaf, upstream, retain_graph=True)


def reference_calls(work_pass: Pass, source: Tensor) -> dict[str, Call]:
    """The calls whose times make a floor; those on one element measure a call's own cost."""
    existing, one = torch.empty_like(source), source.flatten()[:1].clone()
    existing_one = torch.empty_like(one)
    return {
        "copy": lambda: existing.copy_(source),
        "copy of one": lambda: existing_one.copy_(one),
        "fresh copy": lambda: fresh_copy(source),
        "fresh copy of one": lambda: fresh_copy(one),
        "empty operator": empty_operator(work_pass, one),
    }


@dataclass(frozen=True)
class Floor:
    """Seconds of one call's parts."""

    copying: float  # a tensor into another that exists, without what a call costs on no data
    mapping: float  # a fresh tensor, beyond an existing one
    operator: float  # an operator on nothing

    @classmethod
    def of(cls, seconds: Mapping[str, float]) -> "Floor":
        """From the least times of `reference_calls`: noise makes no limit."""
        copying = max(seconds["copy"] - seconds["copy of one"], 0.0)
        fresh = max(seconds["fresh copy"] - seconds["fresh copy of one"], 0.0)
        return cls(copying, max(fresh - copying, 0.0), seconds["empty operator"])

    def moving(self, traffic: Traffic) -> float:
        """A copy reads one tensor and writes one."""
        return (traffic.reads + traffic.writes) / 2 * self.copying

    def moving_fresh(self, traffic: Traffic) -> float:
        """With the pages of the outputs."""
        return self.moving(traffic) + traffic.writes * self.mapping

    def existing_outputs(self, traffic: Traffic) -> float:
        return max(self.moving(traffic), self.operator)

    def fresh_outputs(self, traffic: Traffic) -> float:
        return max(self.moving_fresh(traffic), self.operator)
