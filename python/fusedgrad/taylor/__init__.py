"""Taylor mode: all derivatives up to an order in one pass through a function."""

from fusedgrad.taylor.operators import bilaplacian, derivatives, jet, laplacian
from fusedgrad.taylor.tensor import TaylorError

__all__ = ["TaylorError", "bilaplacian", "derivatives", "jet", "laplacian"]
