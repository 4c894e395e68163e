"""What goes wrong around the operations must not go wrong inside them."""

# mypy: disable-error-code="no-untyped-call"

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import fusedgrad

THREADS = 8


def work(x: Tensor) -> list[Tensor]:
    """Every operation, forward, backward and twice."""
    x = x.detach().requires_grad_()
    target = torch.full_like(x, 0.25)
    values = [
        fusedgrad.sigmoid(x),
        fusedgrad.tanh(x),
        fusedgrad.pow(x, 3),
        fusedgrad.pow(x, x),
        fusedgrad.binary_cross_entropy(x, target),
        fusedgrad.binary_cross_entropy_with_logits(x, target),
    ]
    total = torch.stack([value.sum() for value in values]).sum()
    (first,) = torch.autograd.grad(total, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return [value.detach() for value in (*values, first, second)]


def assert_all_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)


def test_threads_call_operations_while_the_number_of_threads_changes() -> None:
    inputs = [torch.rand(100_003 + 64 * i) for i in range(THREADS)]
    expected = [work(x) for x in inputs]
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for count in (1, 2, 3):
                torch.set_num_threads(count)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(3):
                for result, right in zip(pool.map(work, inputs), expected, strict=True):
                    assert_all_equal(result, right)
    finally:
        done.set()
        changing.join()


def test_flushing_denormals_changes_denormals_only() -> None:
    x = torch.tensor([0.5, 2.0, -3.0])
    expected = fusedgrad.sigmoid(x)
    logits = torch.tensor([-95.0])  # whose sigmoid is denormal
    assert fusedgrad.sigmoid(logits).item() > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("the processor cannot")
    try:
        assert torch.equal(fusedgrad.sigmoid(x), expected)
        assert 0 <= fusedgrad.sigmoid(logits).item() < 1.2e-38
        logits.requires_grad_()
        loss = fusedgrad.binary_cross_entropy_with_logits(logits, torch.ones(1))
        loss.backward()
        assert loss.item() == 95
        assert logits.grad is not None
        assert logits.grad.item() == -1
    finally:
        torch.set_flush_denormal(False)
    assert fusedgrad.sigmoid(logits).item() > 0


def in_a_process(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def output_of(process: subprocess.Popen[str], timeout: float = 120) -> str:
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def test_a_forked_process_computes_after_its_parent_did() -> None:
    script = """
        import os, torch, fusedgrad
        x = torch.rand(200_000, requires_grad=True)
        def work(threads):
            torch.set_num_threads(threads)
            return fusedgrad.sigmoid(x.detach()), fusedgrad.pow(x.detach(), 2.5)
        expected = work(2)
        child = os.fork()
        # A child of a process that used threads has none of them: PyTorch's rule is one thread.
        right = all(map(torch.equal, work(1), expected))
        if child == 0:
            os._exit(0 if right else 1)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), right)
    """
    assert output_of(in_a_process(script)) == "0 True\n"


class Activations(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        x = torch.full((50_000,), float(index), requires_grad=True)
        (grad,) = torch.autograd.grad(fusedgrad.sigmoid(x).sum(), x)
        return grad


def test_workers_of_a_data_loader_compute() -> None:
    script = """
        import sys, torch, fusedgrad
        from torch.utils.data import DataLoader
        from test_hostile import Activations
        torch.set_num_threads(2)
        fusedgrad.sigmoid(torch.rand(200_000))  # threads run before the fork
        batches = torch.cat(list(DataLoader(Activations(), batch_size=2, num_workers=2)))
        print(torch.equal(batches, torch.stack([Activations()[i] for i in range(8)])))
    """
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    assert output_of(in_a_process(script, PYTHONPATH=path)) == "True\n"


@pytest.mark.parametrize(
    "call",
    [
        fusedgrad.sigmoid,
        lambda x: fusedgrad.pow(x, 2.5),
        lambda x: fusedgrad.pow(x, x),
        lambda x: fusedgrad.binary_cross_entropy(x, x, reduction="none"),
        lambda x: torch.ops.fusedgrad.sigmoid_double_backward(x, x, x),
    ],
)
def test_memory_that_cannot_be_had_is_pytorchs_error(call: Callable[[Tensor], Any]) -> None:
    huge = torch.full((), 0.5).expand(1 << 50)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        call(huge)
    assert fusedgrad.sigmoid(torch.zeros(1)).item() == 0.5


def available_memory() -> int:
    """With what the system would give up of its caches, which SC_AVPHYS_PAGES leaves out."""
    (kibibytes,) = re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return int(kibibytes) << 10


@pytest.fixture
def huge() -> Iterator[Tensor]:
    """More than 2^31 bfloat16 numbers: 4 GiB."""
    if available_memory() < 12 << 30:
        pytest.skip("12 GiB of memory needed")
    size = (1 << 31) + 100
    x = torch.zeros(size, dtype=torch.bfloat16)
    x[-3:] = torch.tensor([-1.0, 1.0, 2.0])
    x[0] = 3.0
    yield x
    del x


@pytest.mark.slow
def test_more_than_two_to_the_31_elements(huge: Tensor) -> None:
    ends = torch.cat([huge[:1], huge[-3:]])
    result = fusedgrad.sigmoid(huge)
    assert torch.equal(torch.cat([result[:1], result[-3:]]), fusedgrad.sigmoid(ends))
    assert result[1 << 31].item() == 0.5
    torch.ops.fusedgrad.tanh.out(huge, out=result)
    assert torch.equal(torch.cat([result[:1], result[-3:]]), fusedgrad.tanh(ends))


@pytest.mark.slow
def test_views_that_span_more_than_two_to_the_31_elements(huge: Tensor) -> None:
    strided = huge[:: (1 << 30) + 49][:3]  # the first, one in the middle, the one before the last
    assert torch.equal(fusedgrad.pow(strided, 2), fusedgrad.pow(strided.clone(), 2))
    expanded = torch.tensor([2.0], dtype=torch.bfloat16).expand((1 << 31) + 100)
    loss = fusedgrad.binary_cross_entropy_with_logits(expanded, expanded.sign())
    assert loss.item() == pytest.approx(0.126928, rel=1e-2)


@pytest.mark.slow
def test_interrupt_during_a_long_call_is_a_keyboard_interrupt_after_it() -> None:
    script = """
        import signal, time, torch, fusedgrad
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none
        torch.set_num_threads(1)
        x = torch.full((), 0.5, dtype=torch.float64).expand(1_500_000_000)
        print("ready", flush=True)
        try:
            start = time.monotonic()
            torch.ops.fusedgrad.binary_cross_entropy_with_logits(x, x, None, None, 1)
            print("finished", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted", fusedgrad.sigmoid(torch.zeros(1)).item(), flush=True)
    """
    process = in_a_process(script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert output_of(process).splitlines()[-1] == "interrupted 0.5"


IMPORT = "import fusedgrad"


def message_of_import(package: Path) -> str:
    process = in_a_process(IMPORT, PYTHONPATH=str(package.parent))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output  # an exception, not a crash
    return output.splitlines()[-1]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", ["missing", "not a library", "undefined symbol"])
def test_library_that_does_not_match_torch_is_one_sentence(kind: str, tmp_path: Path) -> None:
    package = tmp_path / "fusedgrad"
    source = Path(fusedgrad.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("_C*.so", "__pycache__"))
    library = package / Path(fusedgrad._C.__file__).name
    if kind == "not a library":
        library.write_bytes(b"\x7fELF of another world")
    elif kind == "undefined symbol":  # of a torch that this one is not
        code = "extern int symbol_of_another_torch(void); int PyInit__C(void)"
        code += "{ return symbol_of_another_torch(); }"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-Wl,-z,now", "-x", "c", "-", "-o", library],
            input=code,
            text=True,
            check=True,
        )
    message = message_of_import(package)
    assert "was built for another torch than" in message
    assert torch.__version__ in message
    assert "build it again with" in message
