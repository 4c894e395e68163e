"""The error budgets of docs/accuracy.md: above what a scan finds, and not far above it."""

import pytest

from tools import error_budget
from tools.error_budget import ROWS, Row

STRIDE = 2_003  # prime, so that it meets all last digits


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("row", "type_name"),
    [
        pytest.param(row, type_name, id=f"{row.title}-{type_name}")
        for row in ROWS
        for type_name in row.scans
    ],
)
def test_no_error_is_above_its_budget_nor_far_below(row: Row, type_name: str) -> None:
    found = row.scans[type_name](STRIDE)
    bound = sum(row.worst(type_name).values())
    assert found.ulp <= bound, f"at {found.at.hex()}"
    assert bound <= 2.5 * found.ulp


def test_the_polynomials_are_those_of_the_headers() -> None:
    found = error_budget.polynomials("approximations.h")["double", "exp2"]
    assert found.coefficients[0] == pytest.approx(error_budget.LN2, rel=1e-15)
    assert len(found.coefficients) == 11
    assert found.minimax < 2.0**-55
