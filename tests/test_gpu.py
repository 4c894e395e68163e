"""What only a GPU answers: stream captures, streams, threads, processes, devices, memory.

`make gpu` runs these. What of it can be asked of the emulated device, tests/test_fuse_cuda.py and
tests/test_cuda_kernels.py ask: loading inside a capture, a workspace that is too small, arrays of
more than 2^31 elements.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fusedgrad
from cuda_backend import ON_CUDA

ROOT = Path(__file__).parents[1]
GIB = 2**30

# What a process begins with, that has launched nothing.
BEGIN = """
import torch, fusedgrad
fused = fusedgrad.fuse(lambda x: fusedgrad.sigmoid(x**2) * torch.erf(x) + 3 * x)
loss = fusedgrad.binary_cross_entropy_with_logits
calls = {
    "an operator": fusedgrad.sigmoid,
    "a sum": lambda x: loss(x, x.sigmoid()),
    "a fused function": fused,
}
def same(a, b):
    assert torch.equal(a.cpu(), b.cpu()), (a, b)
"""
CAPTURE = """
x = torch.linspace(-3, 3, 5000, device="cuda")
y = x.flip(0) * 2
for name, call in calls.items():
    own, graph = x.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(own)
    graph.replay()
    same(result, call(x))
    own.copy_(y)
    graph.replay()
    same(result, call(y))
"""
SECOND_DEVICE = """
x = torch.linspace(-3, 3, 5000, device="cuda:1")
for call in calls.values():
    assert call(x).device == x.device
    torch.testing.assert_close(call(x).cpu(), call(x.cpu()))
torch.cuda.synchronize(1)
assert not torch._C._cuda_hasPrimaryContext(0), "a context on a device that nobody uses"
"""
OUT_OF_MEMORY = """
import gc
x, target = torch.rand(2, 2**20, device="cuda")
expected = loss(x, target)
del expected
gc.collect(), torch.cuda.empty_cache()
left = []
reserved, (_, total) = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()
torch.cuda.set_per_process_memory_fraction(reserved / total)
for size in (2**20, 2**9):  # what is reserved and free
    try:
        while True:
            left.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        pass
for call in (loss, fusedgrad.fuse(lambda x, t: x * t, reduction="mean")):
    try:
        call(x, target)
        raise SystemExit("there was memory")
    except torch.OutOfMemoryError:
        pass
del left
torch.cuda.set_per_process_memory_fraction(1.0)
same(loss(x, target), loss(x, target))
torch.testing.assert_close(loss(x, target).cpu(), loss(x.cpu(), target.cpu()))
"""
TWO_PROCESSES = """
x = torch.linspace(-3, 3, 5000, device="cuda")
for call in calls.values():
    torch.testing.assert_close(call(x).cpu(), call(x.cpu()), rtol=2e-6, atol=2e-6)
"""


@pytest.fixture(params=[ON_CUDA])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def start(program: str, cache: Path) -> subprocess.Popen[str]:
    """A new process, whose cache is empty."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BEGIN + program],
        env={**os.environ, "FUSEDGRAD_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def test_the_first_call_is_captured(device: str, tmp_path: Path) -> None:
    check(start(CAPTURE, tmp_path))


def test_a_device_that_is_not_the_current_one(device: str, tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one device")
    check(start(SECOND_DEVICE, tmp_path))


def test_out_of_memory_is_pytorchs_error_and_passes(device: str, tmp_path: Path) -> None:
    check(start(OUT_OF_MEMORY, tmp_path))


def test_two_processes_at_once(device: str, tmp_path: Path) -> None:
    for process in [start(TWO_PROCESSES, tmp_path) for _ in range(2)]:
        check(process)


def gate(x: Tensor, z: Tensor) -> Tensor:
    return fusedgrad.sigmoid(x) * fusedgrad.tanh(z) + x * z


GATE = fusedgrad.fuse(gate)


def gradients(function: object, x: Tensor, z: Tensor) -> list[Tensor]:
    """The value and both gradients."""
    x, z = x.detach().requires_grad_(), z.detach().requires_grad_()
    value = function(x, z)  # type: ignore[operator]
    return [value.detach(), *torch.autograd.grad(value.sum(), [x, z])]


@pytest.mark.parametrize("function", [gate, GATE], ids=["operators", "fused"])
def test_forward_and_backward_are_replayed(device: str, function: object) -> None:
    x, z = torch.randn(2, 3000, device=device)
    other = torch.randn(2, 3000, device=device)
    expected = gradients(function, *other)  # backward's own streams are warm, too
    graph: torch.cuda.CUDAGraph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(function, x, z)
    for own, new in zip((x, z), other, strict=True):
        own.copy_(new)
    for _ in range(3):
        graph.replay()
        assert all(map(torch.equal, captured, expected))


@pytest.mark.parametrize("function", [gate, GATE], ids=["operators", "fused"])
def test_a_second_thread(device: str, function: object) -> None:
    x, z = torch.randn(2, 3000, device=device)
    found: list[list[Tensor]] = []
    threads = [
        threading.Thread(target=lambda: found.append(gradients(function, x, z))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = gradients(function, x, z)
    assert len(found) == 2
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, expected, strict=True))


@pytest.mark.parametrize("function", [gate, GATE], ids=["operators", "fused"])
def test_a_side_stream_is_the_one_that_is_used(device: str, function: object) -> None:
    x, z = torch.randn(2, 3000, device=device)
    expected = gradients(function, x, z)
    target = torch.zeros_like(x)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        # Cycles, in which the inputs are not there yet
        torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]
        own = [target + x, target + z]
        found = gradients(function, *own)
        is_busy = not stream.query()
    assert torch.cuda.default_stream().query(), "something was launched elsewhere"
    stream.synchronize()
    assert is_busy, "it has waited for its results"
    assert all(map(torch.equal, found, expected))


def test_more_elements_than_a_32_bit_index_counts(device: str) -> None:
    if torch.cuda.mem_get_info()[0] < 24 * GIB:
        pytest.skip("the device has less than 24 GiB of free memory")
    size, tail = 2**31 + 4097, 5000
    x = torch.zeros(size, dtype=torch.bfloat16, device=device)
    x[-tail:] = torch.linspace(-3, 3, tail, device=device)
    fused = fusedgrad.fuse(lambda x: fusedgrad.tanh(x) * x)
    for function in (fusedgrad.sigmoid, fused):
        result = function(x)
        assert torch.equal(result[-tail:], function(x[-tail:].clone()))
        assert bool((result[:-tail] == function(x[:1])).all())
        del result
    losses = fusedgrad.binary_cross_entropy_with_logits(x, x[:1].expand(size), reduction="sum")
    # of which each but the last is ln 2, in bfloat16's own 8 bits
    assert abs(losses.item() / (size * 0.6931471805599453) - 1) < 2**-8
