"""Fused functions: any elementwise composition as one kernel, and its derivatives as another."""

from fusedgrad.fuse.errors import FuseError, FuseTypeError, FuseValueError
from fusedgrad.fuse.function import Fused, fuse

__all__ = ["FuseError", "FuseTypeError", "FuseValueError", "Fused", "fuse"]
