"""The kernels of derivatives of higher orders keep the errors that docs/accuracy.md states."""

import pytest
import torch

from benchmarks.accuracy_orders import DTYPES, FAMILIES, ORDERS, worst

# In ULP, a little above the largest that `python -m benchmarks.accuracy_orders` finds.
BOUNDS = {1: 2.5, 2: 2.2, 3: 8.0, 4: 6.0, 8: 18.0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_errors_of_an_order_stay_below_their_bound(
    name: str, order: int, dtype: torch.dtype
) -> None:
    error, where = worst(FAMILIES[name], order, dtype, samples=2**14)
    assert error <= (BOUNDS[order] if dtype.itemsize > 2 else 0.51), where
