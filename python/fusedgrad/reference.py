"""The formulas of the kernels, written in PyTorch operations, under the names of the operators.

They serve complex dtypes and devices without kernels. A function has the arguments of the operator
that it stands for. Half types are computed in float32 and rounded once. A complex function is
holomorphic, and its gradients follow PyTorch's convention: the gradient of y = f(z) is
grad * conj(f'(z)).
"""

from fusedgrad.operations import logistic_loss as _loss
from fusedgrad.operations import pow as _pow
from fusedgrad.operations import sigmoid as _sigmoid
from fusedgrad.operations import tanh as _tanh
from fusedgrad.operations.logistic_loss import MEAN as MEAN
from fusedgrad.operations.logistic_loss import NONE as NONE
from fusedgrad.operations.logistic_loss import SUM as SUM
from fusedgrad.operations.shared import HALF_DTYPES as HALF_DTYPES
from fusedgrad.operations.shared import Number as Number

binary_cross_entropy = _loss.probability_formula
binary_cross_entropy_backward = _loss.probability_backward_formula
binary_cross_entropy_double_backward = _loss.probability_double_backward_formula
binary_cross_entropy_with_logits = _loss.logits_formula
binary_cross_entropy_with_logits_backward = _loss.logits_backward_formula
binary_cross_entropy_with_logits_double_backward = _loss.logits_double_backward_formula
pow = _pow.formula
pow_backward = _pow.backward_formula
pow_double_backward = _pow.double_backward_formula
pow_scalar_backward = _pow.scalar_backward_formula
pow_scalar_double_backward = _pow.scalar_double_backward_formula
sigmoid = _sigmoid.formula
sigmoid_backward = _sigmoid.backward_formula
sigmoid_double_backward = _sigmoid.double_backward_formula
tanh = _tanh.formula
tanh_backward = _tanh.backward_formula
tanh_double_backward = _tanh.double_backward_formula
