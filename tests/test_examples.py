"""What the examples claim; `make examples` runs them whole."""

from pathlib import Path

import pytest
import torch

from examples import differential_equations, logistic_regression, recurrent


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the matrices are small


def test_logistic_regression_ends_at_scikit_learns_coefficients() -> None:
    assert logistic_regression.train() < logistic_regression.AGREEMENT


def test_logistic_regression_fails_loudly_when_it_has_not_converged() -> None:
    with pytest.raises(RuntimeError, match="coefficients differ from scikit-learn's"):
        logistic_regression.train(rounds=1)


def test_all_cells_are_the_same_function() -> None:
    exact = recurrent.gradient("torch", 0.0, torch.float64)
    assert exact.count_nonzero() > 0.9 * len(exact)
    for name in recurrent.CELLS:
        torch.testing.assert_close(recurrent.gradient(name, 0.0, torch.float64), exact)


def test_only_the_fused_cell_keeps_the_digits_of_a_saturated_gate() -> None:
    errors = recurrent.relative_errors(8.0)
    medians = {name: error.median().item() for name, error in errors.items()}
    assert medians["fusedgrad.fuse"] < 0.1
    assert medians["torch"] > 0.9


@pytest.mark.slow
def test_a_network_learns_and_is_drawn(tmp_path: Path) -> None:
    curves = {0.0: {name: [recurrent.train(name, 0.0, 0, steps=20)] for name in recurrent.CELLS}}
    for (curve,) in curves[0.0].values():
        assert curve.losses[-1] < 0.8 * curve.losses[0]
    errors = {0.0: recurrent.relative_errors(0.0)}
    recurrent.show_gradients(errors)
    recurrent.show_curves(curves)
    picture = tmp_path / "recurrent.png"
    recurrent.draw(picture, errors | {8.0: errors[0.0]}, curves | {8.0: curves[0.0]})
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("equation", differential_equations.EQUATIONS)
def test_both_ways_to_a_differential_equation_are_one(equation: str, tmp_path: Path) -> None:
    trainings = differential_equations.compare(equation, 20)
    picture = tmp_path / "pictures" / f"{equation}.png"
    differential_equations.draw(picture, equation, trainings)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_way_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, inputs, ways = differential_equations.EQUATIONS["poisson"]
    wrong = ways | {"fusedgrad": lambda model, x: 2 * model(x)}
    monkeypatch.setitem(differential_equations.EQUATIONS, "poisson", (loss, inputs, wrong))
    with pytest.raises(RuntimeError, match="apart"):
        differential_equations.compare("poisson", 20)
