"""Fixtures of every test: a fixed seed, and global settings put back.

They import what they need: the process of pytest-xdist that runs no test then loads no PyTorch.
"""

import os
import weakref
from collections import Counter
from collections.abc import Iterator

import pytest

# As many processes as cores run tests: a thread that waits shall leave its core to another.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Several runs may share the tests that are slow."""
    parser.addoption(
        "--share", default="0/1", metavar="K/N", help="of the slow tests every Nth, from the Kth on"
    )


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test that is sampled(n), one case of n is left to `make test`; the others are slow.

    But for those of a GPU, which are quick there.
    """
    cases: Counter[str] = Counter()
    for item in items:
        sampled = item.get_closest_marker("sampled")
        name, _, case = item.nodeid.partition("[")
        if sampled is not None and "cuda" not in case:
            if cases[name] % sampled.args[0] != 0:
                item.add_marker(pytest.mark.slow)
            cases[name] += 1
    first, step = map(int, config.getoption("--share").split("/"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    left_out = set(slow) - set(slow[first::step])
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Random numbers repeat; threads, default dtype and warnings are put back after each test."""
    import torch

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_warn_always(False)


@pytest.fixture
def compiled_fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels are compiled with few optimisations, in a sixth of the time, and kept apart.

    For tests of what a generated function computes: no optimisation that is left out may change a
    bit of it. Vector instructions, and the errors of the optimised code, have tests of their own.
    """
    from fusedgrad.fuse import compile as compilation
    from fusedgrad.fuse import kernel

    flags = tuple("-O1" if flag == "-O3" else flag for flag in compilation.FLAGS)
    assert flags != compilation.FLAGS
    monkeypatch.setattr(compilation, "FLAGS", flags)
    monkeypatch.setattr(kernel, "_kernels", {})
    caches = (compilation._target, compilation._command)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """New functions run operation by operation: for tests of what stands before a kernel.

    (CXX is read once a process, and what was compiled before serves without a compiler.)
    """
    from fusedgrad.fuse import kernel
    from fusedgrad.fuse.compile import CompilerError

    def refuse(source: str) -> int:
        raise CompilerError("this test takes none")

    monkeypatch.setattr(kernel, "block_address", refuse)
    # What has no kernel is remembered, and shall have one after the test.
    monkeypatch.setattr(kernel, "_plans", weakref.WeakKeyDictionary())
    monkeypatch.setattr(kernel, "_warnings", ["a C++ compiler"])
