"""The demo's claims hold."""

from pathlib import Path

import pytest
import torch
from mpmath import mpf

from benchmarks.contenders import FUSEDGRAD, TORCH
from demo import notebooks, picture, training

NOTEBOOK_TABLE = notebooks.table()

# A composition rounds each intermediate result once: tanh(u) near u = 4 doubles the rounding of u.
COMPOSITION_ULP = 4.0


@pytest.mark.parametrize(
    ("row", "answers"),
    NOTEBOOK_TABLE,
    ids=[f"{row.name} of {row.expression}" for row, _ in NOTEBOOK_TABLE],
)
def test_notebook_derivative_is_exact_to_the_last_digits(
    row: notebooks.Derivative, answers: list[notebooks.Answer]
) -> None:
    ours = [answer.ulp for answer in answers if answer.contender == FUSEDGRAD.name]
    assert len(ours) == len(notebooks.DTYPES)
    assert max(ours) <= COMPOSITION_ULP


def test_notebook_table_has_every_derivative_once() -> None:
    names = [(row.expression, row.name) for row, _ in NOTEBOOK_TABLE]
    assert len(set(names)) == len(names) == 7 + 5 + 4


@pytest.mark.parametrize(
    ("value", "exact", "dtype", "ulp"),
    [
        (1.0, mpf(1), torch.float64, 0),
        (1.0 + 2**-52, mpf(1), torch.float64, 1),
        (1.0 - 2**-53, mpf(1), torch.float64, 0.5),
        (0.0, mpf(2) ** -10, torch.float32, 2**23),
        (2.0**-149, mpf(2) ** -148, torch.float32, 1),
    ],
)
def test_ulp_error(value: float, exact: mpf, dtype: torch.dtype, ulp: float) -> None:
    assert notebooks.ulp_error(value, exact, dtype) == ulp


def test_gated_networks_start_equal_and_learn() -> None:
    theirs, ours = (
        training.train_gated_network(library, saturation=0.0, steps=20)
        for library in (TORCH, FUSEDGRAD)
    )
    assert ours[0].loss == pytest.approx(theirs[0].loss, rel=1e-2)
    assert ours[-1].loss < 0.5 * ours[0].loss


def test_picture_is_drawn_from_small_errors(tmp_path: Path) -> None:
    x = torch.linspace(10, 20, 101, dtype=torch.float64)
    rounding = torch.finfo(torch.float32).eps
    assert picture.relative_error(FUSEDGRAD, "sigmoid", torch.float32, x).max() < 3 * rounding
    picture.draw(tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
