"""The formulas of the kernels, written in PyTorch operations, under the names of the operators.

They serve complex dtypes and devices without kernels. A function has the arguments of the operator
that it stands for. Half types are computed in float32 and rounded once. A complex function is
holomorphic, and its gradients follow PyTorch's convention: the gradient of y = f(z) is
grad * conj(f'(z)).
"""

from fusedgrad.operations.logistic_loss import (
    MEAN,
    NONE,
    SUM,
)
from fusedgrad.operations.logistic_loss import (
    logits_backward_formula as binary_cross_entropy_with_logits_backward,
)
from fusedgrad.operations.logistic_loss import (
    logits_double_backward_formula as binary_cross_entropy_with_logits_double_backward,
)
from fusedgrad.operations.logistic_loss import (
    logits_formula as binary_cross_entropy_with_logits,
)
from fusedgrad.operations.logistic_loss import (
    probability_backward_formula as binary_cross_entropy_backward,
)
from fusedgrad.operations.logistic_loss import (
    probability_double_backward_formula as binary_cross_entropy_double_backward,
)
from fusedgrad.operations.logistic_loss import (
    probability_formula as binary_cross_entropy,
)
from fusedgrad.operations.pow import backward_formula as pow_backward
from fusedgrad.operations.pow import double_backward_formula as pow_double_backward
from fusedgrad.operations.pow import formula as pow
from fusedgrad.operations.pow import scalar_backward_formula as pow_scalar_backward
from fusedgrad.operations.pow import scalar_double_backward_formula as pow_scalar_double_backward
from fusedgrad.operations.shared import HALF_DTYPES, Number
from fusedgrad.operations.sigmoid import backward_formula as sigmoid_backward
from fusedgrad.operations.sigmoid import double_backward_formula as sigmoid_double_backward
from fusedgrad.operations.sigmoid import formula as sigmoid
from fusedgrad.operations.tanh import backward_formula as tanh_backward
from fusedgrad.operations.tanh import double_backward_formula as tanh_double_backward
from fusedgrad.operations.tanh import formula as tanh

__all__ = [
    "HALF_DTYPES",
    "MEAN",
    "NONE",
    "SUM",
    "Number",
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_double_backward",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "binary_cross_entropy_with_logits_double_backward",
    "pow",
    "pow_backward",
    "pow_double_backward",
    "pow_scalar_backward",
    "pow_scalar_double_backward",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_double_backward",
    "tanh",
    "tanh_backward",
    "tanh_double_backward",
]
