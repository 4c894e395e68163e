"""The functions that fused functions are made of, and two derivatives, against mpmath."""

import pytest
import torch

from fusedgrad.fuse import forms
from fusedgrad.fuse.functions import FUNCTIONS, Function
from tools import function_errors
from tools.exact_functions import exact
from tools.function_errors import BOUND, BOUNDS, Case

SAMPLES = 12
CASES = list(function_errors.cases())


@pytest.mark.parametrize("dtype", function_errors.DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_error_is_within_four_ulp_times_the_condition(case: Case, dtype: torch.dtype) -> None:
    found = function_errors.measured(case, dtype, SAMPLES)
    assert found.at, "no sample"
    assert found.error <= BOUNDS.get((case.function.name, len(case.by)), BOUND), found


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_declaration_is_complete(function: Function) -> None:
    assert function.evaluate is not None or hasattr(forms, function.name)
    value = {"polygamma": 0, "kummer": (1, 1), "bessel_i": 2}.get(function.name)
    assert callable(exact(function.name, value))
