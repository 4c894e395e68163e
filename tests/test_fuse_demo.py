"""The section of the demo on fused functions."""

from collections.abc import Callable
from pathlib import Path

import mpmath
import pytest
import torch
from mpmath import mp, mpf

from demo import fused
from ulp import ulp_error


def _sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


EXACT: tuple[Callable[..., mpf], ...] = (
    lambda x: _sigmoid(x**2) + mp.tanh(x**3),
    lambda x, z: _sigmoid(x**2 + z) + mp.tanh(x**3 * z**2),
    lambda x: mp.tanh(x + _sigmoid(x**2)),
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_notebook_derivative_is_exact_to_the_last_digits(dtype: torch.dtype) -> None:
    for (function, point), exact in zip(fused.FUNCTIONS, EXACT, strict=True):
        value, grads = function.value_and_grad(*(torch.tensor(p, dtype=dtype) for p in point))
        with mp.workdps(60):
            assert ulp_error(value.item(), exact(*map(mpf, point)), dtype) <= 2
            for i, grad in enumerate(grads):
                order = tuple(int(i == j) for j in range(len(point)))
                true = mpmath.diff(exact, tuple(map(mpf, point)), order)
                # tanh(u) near u = 4 doubles the rounding of u
                assert ulp_error(grad.item(), true, dtype) <= 6


def test_prints_the_code_and_draws_the_graphs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fused.show()
    printed = capsys.readouterr().out
    assert "math::tanh_derivative(t5)" in printed
    assert printed.count("∂/∂") == 4
    fused.draw(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_every_node_of_a_picture_has_its_own_place() -> None:
    for function, _ in fused.FUNCTIONS:
        layout = fused.Layout.of(fused.derivative_graph(function), 1)
        places = list(layout.places.values())
        assert len(set(places)) == len(places)
        for expression, (_, height) in layout.places.items():
            assert all(layout.places[a][1] < height for a in expression.arguments)
