"""sigmoid, tanh, pow and binary cross-entropy with exact derivatives of every order."""

import torch

try:
    import fusedgrad._C  # noqa: F401  (registers torch.ops.fusedgrad)
except ImportError as error:
    raise ImportError(
        f"fusedgrad's compiled part, fusedgrad._C, is missing or was built for another torch than "
        f"the installed {torch.__version__}: build it again with "
        f"`pip install .` ({error})"
    ) from error

from fusedgrad import activations, autograd, distributed, nn, reference
from fusedgrad.config import show_config
from fusedgrad.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    pow,
    sigmoid,
    tanh,
)
from fusedgrad.fuse import FuseError, fuse
from fusedgrad.patch import convert, patched
from fusedgrad.taylor import TaylorError, bilaplacian, derivatives, jet, laplacian
from fusedgrad.version import __version__

__all__ = [
    "FuseError",
    "TaylorError",
    "__version__",
    "activations",
    "autograd",
    "bilaplacian",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "convert",
    "derivatives",
    "distributed",
    "fuse",
    "jet",
    "laplacian",
    "nn",
    "patched",
    "pow",
    "reference",
    "show_config",
    "sigmoid",
    "tanh",
]
