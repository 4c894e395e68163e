"""Random programs: a fused function does what the plain one does, before and after changes.

`python tests/random_programs.py N` prints program N and how it fares.
"""

import pytest

import fusedgrad
from random_programs import outcome, program

GROUP = 20
# Where PyTorch's answer hangs on what no operation tells; a list that may only get shorter.
KNOWN = {
    167: "an inference tensor that eager refuses to save, and a kernel need not",
    478: "a leaf whose .data was given another shape: its gradient is refused, as by autograd",
    1012: "the same, in a second derivative",
}
# What is refused of programs that are within the vocabulary
REFUSALS = (
    *("requires_grad_", "Tensor.data", "Tensor.__deepcopy__", "control flow"),
    "what a cast has rounded",
)


def _check(first: int) -> None:
    calls = 0
    for number in range(first, first + GROUP):
        if number in KNOWN:
            continue
        made = program(number)
        result = outcome(made, fusedgrad.fuse)
        calls += result.calls
        told = f"program {number}: {result.kind} {result.told}"
        if result.kind == "refused":
            assert made.features or any(name in result.told for name in REFUSALS), told
        elif "made: SyntaxError" not in result.told:
            assert result.kind == "right" or (made.features and result.kind != "wrong"), told
    assert calls > 4 * GROUP


# Operation by operation: kernels have tests of their own.
@pytest.mark.sampled(6)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("first", range(0, 300, GROUP))
def test_random_programs(first: int) -> None:
    _check(first)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("first", range(300, 800, GROUP))
def test_more_random_programs(first: int) -> None:
    _check(first)
