"""`python -m benchmarks.comparison`: what fusedgrad and others compute where activations saturate.

fusedgrad and torch run here; JAX and MLX, pinned, in build/others, an environment that this makes
with a Python of the version they ask for. --write puts the table into docs/comparison.md.
"""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mpmath
import torch

from benchmarks.accuracy_libraries import OURS, TORCHS, Function, Operation, by_autograd
from benchmarks.accuracy_libraries import loss as loss_with_logits
from benchmarks.accuracy_libraries import sigmoid as sigmoid_of
from benchmarks.accuracy_libraries import tanh as tanh_of
from benchmarks.contenders import FUSEDGRAD, TORCH
from benchmarks.report import BUILD, DOCS, markdown, write_between_markers

PAGE = DOCS / "comparison.md"
OTHERS = BUILD / "others"
PINNED = ("jax==0.12.0.1", "mlx[cpu]==0.32.4")
PYTHON = "3.12"  # the oldest that this JAX takes
MISSING = "–"

Numbers = Mapping[str, Sequence[float | str | None]]  # of a library, an answer to each question


@dataclass(frozen=True)
class Question:
    """A derivative of a function at a point."""

    function: str
    order: int
    x: float
    target: float = 0.0

    def title(self) -> str:
        at = f"({self.x:g}, {self.target:g})" if self.function == "loss" else f"({self.x:g})"
        name = "BCE with logits" if self.function == "loss" else self.function
        return f"{name}{'′' * self.order}{at}"

    def exact(self) -> float:
        target = mpmath.mpf(self.target)
        functions = {
            "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
            "tanh": mpmath.tanh,
            "loss": lambda x: mpmath.log1p(mpmath.exp(x)) - target * x,
        }
        with mpmath.workdps(60):
            return float(mpmath.diff(functions[self.function], self.x, self.order))


QUESTIONS = (
    Question("sigmoid", 1, 20),
    Question("sigmoid", 2, 20),
    Question("sigmoid", 3, 20),
    Question("tanh", 1, 10),
    Question("tanh", 2, 10),
    Question("loss", 0, -20),
    Question("loss", 1, 20, 1),
    Question("loss", 2, 20),
    Question("loss", 2, -20),
)
OPERATIONS: Mapping[str, Operation] = {
    "sigmoid": sigmoid_of,
    "tanh": tanh_of,
    "loss": loss_with_logits,
}


def with_torch(functions: Any, compiled: bool = False) -> list[float | str]:
    """The answers of fusedgrad's or torch's functions; compiled, by what AOTAutograd traces."""
    answers: list[float | str] = []
    for question in QUESTIONS:
        operation: Any = OPERATIONS[question.function]
        if compiled:
            torch.compiler.reset()
            operation = torch.compile(operation, backend="aot_eager", fullgraph=True)
        function = Function("", "", operation, question.order)
        x, target = (torch.tensor([float(n)]) for n in (question.x, question.target))
        try:
            answers.append(by_autograd(functions, function, x, target).item())
        except RuntimeError:
            if not compiled or question.order < 2:
                raise
            answers.append("raises")  # no double backward
    return answers


def here() -> Numbers:
    return {
        OURS.name: with_torch(FUSEDGRAD),
        f"{TORCHS.name} {torch.__version__}": with_torch(TORCH),
        "torch.compile": with_torch(TORCH, compiled=True),
    }


def interpreter() -> str:
    """A Python for the others: on PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = sorted(pyenv.glob(f"{PYTHON}.*/bin/python"))
    python = str(found[-1]) if found else shutil.which(f"python{PYTHON}")
    if python is None:
        raise SystemExit(f"{PINNED[0]} needs Python {PYTHON}, which is not here")
    return python


def others() -> Mapping[str, Any]:
    """The numbers of JAX and MLX, and the races that Pallas' interpreter reports."""
    python = OTHERS / "bin" / "python"
    if not python.exists():
        subprocess.run([interpreter(), "-m", "venv", OTHERS], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PINNED], check=True)
    script = Path(__file__).with_name("comparison_others.py")
    asked = json.dumps([[q.function, q.order, q.x, q.target] for q in QUESTIONS])
    # The interpreter prints every race that it is to find.
    done = subprocess.run(
        [python, script], input=asked, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    answers: Mapping[str, Any] = json.loads(done.stdout)
    return answers


def cell(answer: float | str | None) -> str:
    if answer is None:
        return MISSING
    return answer if isinstance(answer, str) else f"{answer + 0.0:.5g}"  # without -0


def table(numbers: Numbers) -> str:
    """A row for each question, a column for each library."""
    rows = [
        [question.title(), cell(question.exact()), *(cell(of[index]) for of in numbers.values())]
        for index, question in enumerate(QUESTIONS)
    ]
    return markdown(["float32", "exact", *numbers], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    arguments = parser.parse_args()
    found = others()
    races = "; ".join(
        f"{what}, {'reported' if reported else 'not reported'}"
        for what, reported in found["races"].items()
    )
    text = (
        f"{table({**here(), **found['numbers']})}\n\n"
        f"Pallas' interpreter of GPU kernels, `InterpretGPUParams(detect_races=True)`: {races}. "
        f"Run on a CPU, {date.today()}: {', '.join(PINNED)}."
    )
    print(text)
    if arguments.write:
        write_between_markers("numbers", text, PAGE)


if __name__ == "__main__":
    main()
