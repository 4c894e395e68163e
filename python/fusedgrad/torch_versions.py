"""What differs between the versions of PyTorch that fusedgrad runs on.

The twin of csrc/operators/torch_versions.h. docs/versions.md has the versions that were tested.
"""

import threading
from collections.abc import Iterable
from typing import Any

import torch
import torch._functorch.config as functorch_config
import torch.compiler.config as compiler_config

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])

# From 2.14 on, clamp passes no gradient to what lies on a bound that is a number, and half of it
# where the bound is a tensor, which takes the other half, as maximum's arguments do.
CLAMP_SHARES = VERSION >= (2, 14)

# A list of dtypes reaches the Python implementation of an operator as c10::ScalarType's numbers
# before 2.13.
_SCALAR_TYPES: dict[Any, torch.dtype] = {
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    15: torch.bfloat16,
}


def dtypes_of(values: Iterable[Any]) -> list[torch.dtype]:
    """The dtypes of an operator's argument."""
    return [_SCALAR_TYPES.get(value, value) for value in values]


_TAG = "fusedgrad.patched"
_lock = threading.Lock()
_inside: list[bool] = []  # whether the cache was on, for each context that a thread is in


def tag_graphs(patched: bool) -> Any:
    """Keep apart on disk the graphs that torch.compile makes in a state and in the other.

    It guards the dispatch keys of its arguments, but does not keep them with a graph. From 2.12 on
    configuration is the thread's, and a tag becomes part of the graph's key. Before it is the
    process's, where another thread's tag would be taken: the cache is off while one is inside.
    Returns what `untag_graphs` takes.
    """
    if VERSION >= (2, 12):
        tag = compiler_config.cache_key_tag
        compiler_config.cache_key_tag = tag.removesuffix(_TAG) + _TAG * patched
        return tag
    with _lock:
        _inside.append(functorch_config.enable_autograd_cache)
        functorch_config.enable_autograd_cache = False
    return None


def untag_graphs(before: Any) -> None:
    """Leave the state."""
    if VERSION >= (2, 12):
        compiler_config.cache_key_tag = before
        return
    with _lock:
        was_on = _inside.pop()
        functorch_config.enable_autograd_cache = was_on and not _inside
