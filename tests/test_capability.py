"""The instruction sets of the CPU kernels: each can be chosen, and all give the same bits."""

import os
import subprocess
import sys

import pytest

from fusedgrad import _C

# Every operator in every dtype, contiguous, strided and reduced; prints a digest of the results.
DIGEST = """
import hashlib, torch
import fusedgrad
from fusedgrad import _C

torch.manual_seed(0)
ops = torch.ops.fusedgrad
digest = hashlib.sha256()
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    spread = torch.randn(5, 677, dtype=torch.float64).mul(12).to(dtype)
    for x in (spread, spread[:, ::3], spread.t()):
        p, e, g = x.abs().clamp(max=1), x.flip(0), x.flip(1)
        results = [ops.sigmoid(x), ops.tanh(x), ops.sigmoid_backward(g, x), ops.tanh_backward(g, x)]
        results += [*ops.sigmoid_double_backward(e, g, x), *ops.tanh_double_backward(e, g, x)]
        for k in (-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 1 / 3, -7.3, 10):
            results += [ops.pow(x, k), ops.pow_backward(g, x, k)]
            results += ops.pow_double_backward(e, g, x, k)
        results += [ops.pow(x, e), *ops.pow_backward(g, x, e, [True, True])]
        results += ops.pow_double_backward(e, g, g, x, e)
        for reduction in (0, 1, 2):
            grad = g if reduction == 0 else g.flatten()[0]
            results.append(ops.binary_cross_entropy_with_logits(x, p, p, p, reduction))
            results += ops.binary_cross_entropy_with_logits_backward(
                grad, x, p, p, p, reduction, [True] * 4
            )
            results.append(ops.binary_cross_entropy(p, p, p, reduction))
            results += ops.binary_cross_entropy_backward(grad, p, p, p, reduction, [True] * 3)
        for result in results:
            finite = torch.where(result.isnan(), torch.zeros_like(result), result)
            digest.update(finite.reshape(-1).view(torch.uint8).numpy().tobytes())
print(_C.cpu_capability(), digest.hexdigest())
"""


def run(capability: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DIGEST],
        env={**os.environ, "FUSEDGRAD_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )


def available() -> list[str]:
    built = _C.cpu_capabilities()
    return built[: built.index(_C.cpu_capability()) + 1]


def test_all_instruction_sets_give_the_same_bits() -> None:
    runs = [run(capability) for capability in available()]
    assert [done.stderr for done in runs if done.returncode != 0] == []
    found = [done.stdout.split() for done in runs]
    assert [name for name, _ in found] == available()
    assert len({digest for _, digest in found}) == 1, found


@pytest.mark.parametrize("wrong", ["", "sse", "AVX2"])
def test_an_unknown_instruction_set_is_named_in_the_error(wrong: str) -> None:
    failed = run(wrong)
    assert failed.returncode != 0
    assert f"FUSEDGRAD_CPU_CAPABILITY is '{wrong}', expected one of" in failed.stderr
