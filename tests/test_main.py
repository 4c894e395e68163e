"""`python -m fusedgrad`: its check of this machine passes here, and sees what is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusedgrad
from fusedgrad import __main__ as self_check
from fusedgrad import activations, reference


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


RUN = "import fusedgrad, runpy; {}; runpy.run_module('fusedgrad', run_name='__main__')"


def test_every_operation_passes_in_every_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    assert self_check.main() == 0
    printed = capsys.readouterr().out
    assert printed.startswith(fusedgrad.show_config())
    names = [operation.name for operation in self_check.operations()]
    devices = 1 + torch.cuda.is_available()
    assert printed.endswith(f"all {len(names) * 4 * devices} checks passed\n")
    for dtype in self_check.BOUNDS:
        kind = str(dtype).removeprefix("torch.")
        lines = [line for line in printed.splitlines() if f" {kind} " in line]
        assert len(lines) == len(names) * devices
        found = [line[:41].rstrip() for line in lines[::devices]]
        assert found == names


def test_nothing_is_left_out() -> None:
    names = [operation.name for operation in self_check.operations()]
    functions = ("sigmoid", "tanh", "pow", "binary_cross_entropy")
    expected = [*functions, "binary_cross_entropy_with_logits", "fuse"]
    expected += [f"nn.{name}" for name in fusedgrad.nn.__all__]
    expected += [f"activations.{name}" for name in activations.__all__]
    for name in expected:
        assert any(
            found == name or found.startswith((f"{name}(", f"{name},", f"{name}:"))
            for found in names
        ), name
    assert len(set(names)) == len(names)


def test_a_gradient_wrong_in_the_last_digits_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = reference.tanh_backward
    wrong = 1 + 16 * torch.finfo(torch.float32).eps
    monkeypatch.setattr(reference, "tanh_backward", lambda *inputs: right(*inputs) * wrong)
    assert self_check.main() == 1
    printed = capsys.readouterr().out
    failed = [line.split()[:2] for line in printed.splitlines() if "FAILED: more" in line]
    assert failed == [
        [name, kind] for name in ("tanh", "nn.Tanh") for kind in ("float64", "float32")
    ]
    assert printed.endswith(" checks FAILED\n")


def test_what_an_operation_raises_is_reported_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(x: torch.Tensor) -> self_check.Results:
        raise RuntimeError("the device is not ok")

    operation = self_check.Operation("broken", [self_check.LOGITS], broken, broken)
    monkeypatch.setattr(self_check, "operations", lambda: [operation])
    assert self_check.main() == 1
    *_, before, last = capsys.readouterr().out.splitlines()
    assert before.endswith("FAILED: RuntimeError: the device is not ok")
    checks = len(self_check.BOUNDS) * (1 + torch.cuda.is_available())
    assert last == f"{checks} of {checks} checks FAILED"


@pytest.mark.slow
def test_wrong_generated_code_fails(tmp_path: Path) -> None:
    code = """
import sys, fusedgrad.__main__ as check
from fusedgrad.fuse import kernel
right, every = kernel.cpu_source, check.operations
kernel.cpu_source = lambda *a: right(*a).replace('math::tanh(', 'math::sigmoid(')
some = ('fuse', 'tanh', 'activations.soft')  # each takes the compiler a second
check.operations = lambda: (each for each in every() if each.name.startswith(some))
sys.exit(check.main())
"""
    done = run(code, FUSEDGRAD_CACHE_DIR=str(tmp_path))
    assert done.returncode == 1, done.stderr
    failed = {line.split()[0] for line in done.stdout.splitlines() if "FAILED: more" in line}
    assert {"fuse:", "activations.softcap"} <= failed
    assert not any(name in failed for name in ("tanh", "activations.softplus"))


@pytest.mark.slow
def test_passes_without_a_compiler(tmp_path: Path) -> None:
    done = run(RUN.format("pass"), FUSEDGRAD_CACHE_DIR=str(tmp_path), CXX="/bin/false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "for lack of a C++ compiler" in done.stderr


def test_import_leaves_the_compiler_alone() -> None:
    # Dynamo and SymPy, which torch imports when it compiles, take as long as torch itself.
    done = run(
        "import torch, sys; before = set(sys.modules); import fusedgrad;"
        "print([name for name in set(sys.modules) - before if name in ('torch._dynamo', 'sympy')])"
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("value", "exact", "ulp"),
    [
        (1.0, 1.0, 0),
        (1.0, 1 + 2**-23, 1),
        (0.0, 2.0**-149, 1),
        (float("inf"), 1e39, 0),
        (float("inf"), 3e38, float("inf")),
        (float("nan"), 1.0, float("inf")),
        (1.0, float("nan"), float("inf")),
        (float("nan"), float("nan"), 0),
        (0.0, float("-inf"), float("inf")),
    ],
)
def test_error_in_ulp(value: float, exact: float, ulp: float) -> None:
    got = torch.tensor([1.0, value])
    assert self_check.largest_ulp([got], [torch.tensor([1.0, exact], dtype=torch.float64)]) == ulp
