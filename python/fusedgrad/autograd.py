"""The operations as `torch.autograd.Function` classes, differentiable any number of times."""

from fusedgrad.operations.logistic_loss import BinaryCrossEntropy, BinaryCrossEntropyWithLogits
from fusedgrad.operations.pow import Pow
from fusedgrad.operations.sigmoid import Sigmoid
from fusedgrad.operations.tanh import Tanh

__all__ = ["BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "Pow", "Sigmoid", "Tanh"]
