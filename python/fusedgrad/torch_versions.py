"""What differs between the versions of PyTorch that fusedgrad runs on.

The twin of csrc/operators/torch_versions.h. docs/versions.md has the versions that were tested.
"""

from collections.abc import Iterable
from typing import Any

import torch

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
