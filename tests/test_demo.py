"""The demo and the benchmark programs run, and the demo's claims hold."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mpmath import mpf

from benchmarks import accuracy, overhead, report, speed
from benchmarks.contenders import FUSEDGRAD, TORCH, Contender
from demo import notebooks, picture, training

NOTEBOOK_TABLE = notebooks.table()

# A composition rounds each intermediate result once: tanh(u) near u = 4 doubles the rounding of u.
COMPOSITION_ULP = 4.0


@pytest.fixture(autouse=True)
def _restored_thread_count() -> Iterator[None]:
    """The benchmarks set the number of threads; other tests shall not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


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


def test_logistic_regression_ends_at_scikit_learns_coefficients() -> None:
    assert training.train_logistic_regression() < training.AGREEMENT


def test_logistic_regression_fails_loudly_when_it_has_not_converged() -> None:
    with pytest.raises(RuntimeError, match="coefficients differ from scikit-learn's"):
        training.train_logistic_regression(rounds=1)


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


def test_speed_benchmark_reports_every_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speed.main(["--quick", "--threads", "1", "--json", str(tmp_path / "speed.json")])
    results = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert len(results) == len(speed.WORKS) * len(speed.PASSES)
    assert all(result["seconds"]["fusedgrad"]["median"] > 0 for result in results)
    printed = capsys.readouterr().out
    assert all(f"| {work.name} " in printed for work in speed.WORKS)


def test_overhead_benchmark_reports_every_work(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main(["--quick"])
    printed = capsys.readouterr().out
    assert all(f"| {work.name} " in printed for work in speed.WORKS)


def test_accuracy_tables_have_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy.main(["--stride", "1000003", "--samples", "1024"])
    printed = capsys.readouterr().out
    titles = [title for title, *_ in accuracy.unary_and_loss()]
    assert len(titles) == 6 + 3 * 2
    tables_with_these_rows = 1 + len(accuracy.HALF_TYPES)
    assert all(printed.count(f"| {title} ") == tables_with_these_rows for title in titles)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accuracy_sees_one_wrong_last_digit(dtype: torch.dtype) -> None:
    def off_by_one(library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        exact = torch.tanh(x.double()).to(dtype)
        return torch.where(x == 0.5, torch.nextafter(exact, torch.ones_like(exact)), exact)

    def chunk() -> accuracy.Inputs:
        x = torch.linspace(0.25, 1, 193, dtype=dtype)
        return x, torch.zeros_like(x)

    errors = accuracy.compare(accuracy.Function("", "tanh", off_by_one), FUSEDGRAD, chunk)
    assert errors.misrounded == 1
    assert 0.5 < errors.largest <= 1.5
    assert errors.wrong == errors.zeros == 0


def test_accuracy_counts_zeros_and_signs_that_must_not_be() -> None:
    def zeros(library: Contender, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return torch.where(x.abs() < 1, -x, torch.zeros_like(x))

    def chunk() -> accuracy.Inputs:
        x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0, math.nan], dtype=torch.bfloat16)
        return x, torch.zeros_like(x)

    errors = accuracy.compare(accuracy.Function("", "tanh", zeros), FUSEDGRAD, chunk)
    assert (errors.count, errors.misrounded, errors.zeros, errors.wrong) == (6, 2, 2, 3)


def test_table_is_written_between_its_markers_only(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter\n")
    report.write_into_readme("speed", "new", readme)
    expected = "before\n<!-- speed:begin -->\nnew\n<!-- speed:end -->\nafter\n"
    assert readme.read_text() == expected
    with pytest.raises(ValueError, match="accuracy:begin"):
        report.write_into_readme("accuracy", "new", readme)
