"""The public functions: PyTorch's signatures, defaults, type promotion and errors."""

from fusedgrad.operations.logistic_loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
)
from fusedgrad.operations.pow import pow
from fusedgrad.operations.sigmoid import sigmoid
from fusedgrad.operations.tanh import tanh

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "pow", "sigmoid", "tanh"]
