"""The kernels of derivatives of higher orders keep the errors that docs/accuracy.md states."""

import pytest
import torch

from benchmarks.accuracy_orders import DTYPES, FAMILIES, worst


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_errors_of_every_order_keep_the_rule(name: str, dtype: torch.dtype) -> None:
    family = FAMILIES[name]
    for order in family.orders:
        error, where = worst(family, order, dtype, samples=2**12)
        assert error <= (family.rule(order) if dtype.itemsize > 2 else 0.51), (order, where)
