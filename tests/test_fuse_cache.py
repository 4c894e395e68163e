"""Compiling a fused function, and keeping the result on disk, when things go wrong."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fusedgrad
from fusedgrad import _C
from fusedgrad.fuse import compile as compilation
from fusedgrad.fuse import kernel

ROOT = Path(__file__).parents[1]

CLANG = shutil.which("clang++-19") or shutil.which("clang++")
GCC = shutil.which("g++")

# Says whether the first call was right.
PROGRAM = """
import torch, fusedgrad
x = torch.linspace(-3, 3, 100)
f = fusedgrad.fuse(lambda x: fusedgrad.sigmoid(x**2) + fusedgrad.tanh(x**3))
print(torch.allclose(f(x), torch.sigmoid(x**2) + torch.tanh(x**3), atol=1e-6))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a process that has compiled nothing."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", str(folder))
    monkeypatch.setattr(kernel, "_kernels", {})
    compilation._command.cache_clear()
    monkeypatch.setattr(kernel, "_warnings", [])
    return folder


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that the compiler was given."""
    seen: list[str] = []
    compiled = compilation._compiled
    monkeypatch.setattr(
        compilation,
        "_compiled",
        lambda command, source: seen.append(source) or compiled(command, source),  # type: ignore[func-returns-value]
    )
    return seen


def works() -> bool:
    """Whether a function that is new to the process is right."""
    kernel._kernels.clear()
    x = torch.linspace(-3, 3, 100)
    return torch.allclose(fusedgrad.fuse(lambda x: torch.exp(x) * x)(x), torch.exp(x) * x)


def start(cache: Path, program: str = PROGRAM, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "FUSEDGRAD_CACHE_DIR": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def is_right(process: subprocess.Popen[str]) -> bool:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output == "True\n"


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*"))


def test_second_process_compiles_nothing(cache: Path) -> None:
    assert is_right(start(cache))
    before = [(path, path.stat().st_mtime_ns) for path in entries(cache)]
    assert len(before) == 1
    no_compiler = {"CXX": "/usr/bin/false"}  # other flags, so that the entry must not be found
    assert is_right(start(cache, **no_compiler))
    assert [(path, path.stat().st_mtime_ns) for path in entries(cache)] == before


@pytest.mark.parametrize(("name", "refused"), [("Debian clang version 19.1.7", 2), ("g++ 12", 0)])
def test_clang_is_not_given_what_it_refuses(tmp_path: Path, name: str, refused: int) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\n[ "$*" = --version ] && echo "{name}"\n')
    compiler.chmod(0o755)
    flags = (*compilation.FLAGS, *compilation._TARGETS["avx512"])
    command, *left = compilation._understood((str(compiler), *flags))
    assert command == str(compiler)
    assert len(flags) - len(left) == refused
    assert any("sched" in flag for flag in left) is (refused == 0)


# What a function and its gradients are, to the bit.
BITS = """
import torch, fusedgrad
f = fusedgrad.fuse(lambda x, z: fusedgrad.sigmoid(x**2 + z) * torch.erf(z) + torch.sin(x - z))
x, z = torch.linspace(-9, 9, 1003), torch.linspace(4, -3, 1003)
value, partials = f.value_and_grad(x, z)
print([tensor.view(torch.int32).tolist() for tensor in (value, *partials)])
"""


@pytest.mark.skipif(None in (GCC, CLANG), reason="there are no g++ and clang++ on this machine")
def test_clang_compiles_to_the_same_bits(tmp_path: Path) -> None:
    compilers = {"g++": str(GCC), "clang": str(CLANG)}
    started = {
        name: start(tmp_path / name, BITS, PYTHONWARNINGS="error", CXX=command)
        for name, command in compilers.items()
    }
    bits = {name: process.communicate(timeout=120) for name, process in started.items()}
    assert bits["clang"] == bits["g++"]
    assert bits["clang"][0].count("[") == 4
    assert all(list((tmp_path / name).glob("*.so")) for name in compilers)


def test_processes_may_compile_the_same_function_at_once(cache: Path) -> None:
    processes = [start(cache) for _ in range(3)]
    assert all(is_right(process) for process in processes)
    assert [path.suffix for path in entries(cache)] == [".so"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes()[:-40] + bytes(40)),
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        lambda path: path.write_text("not a shared object"),
    ],
    ids=["empty", "truncated", "without its end", "one bit", "text"],
)
def test_corrupted_entry_is_made_again(
    cache: Path, compilations: list[str], spoil: Callable[[Path], object]
) -> None:
    assert works()
    (entry,) = entries(cache)
    sound = entry.read_bytes()
    spoil(entry)
    assert works()
    assert len(compilations) == 2
    assert entry.read_bytes() == sound
    assert works()
    assert len(compilations) == 2


def test_entry_that_is_a_folder_is_gone_around(cache: Path) -> None:
    assert works()
    (entry,) = entries(cache)
    entry.unlink()
    entry.mkdir()
    assert works()


def test_read_only_folder_is_gone_around(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Permissions would not stop root.
    monkeypatch.setattr(Path, "mkdir", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert works()
    assert not cache.exists()


def test_no_home_is_gone_around(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FUSEDGRAD_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert works()


def test_cache_follows_xdg(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FUSEDGRAD_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert works()
    assert len(entries(tmp_path / "fusedgrad")) == 1


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "is not on PATH"), ("/usr/bin/false", "failed")],
)
def test_without_a_compiler_one_warning_and_right_results(
    cache: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(UserWarning, match=reason) as caught:
        assert works() and works()  # noqa: PT018
    assert sum("compiler" in str(warning.message) for warning in caught) == 1


def test_no_folder_to_compile_in(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.warns(UserWarning, match="no folder to compile in"):
        assert works()


def test_key_depends_on_what_a_kernel_is_made_of(
    cache: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]
) -> None:
    assert works()
    compiler = " ".join(compilation.compiler())
    changes: tuple[Callable[[], None], ...] = (
        lambda: monkeypatch.setenv("CXX", f"{compiler} -fno-unroll-loops"),
        lambda: monkeypatch.setattr(compilation, "__version__", "0.0.0"),
        lambda: monkeypatch.setattr(_C, "cpu_capability", lambda: "baseline"),
        lambda: monkeypatch.setattr(compilation, "headers_digest", lambda: b"other headers"),
    )
    for change in changes:
        change()
        compilation._command.cache_clear()
        compilation._target.cache_clear()
        assert works()
    assert len(compilations) == len(entries(cache)) == 5
    compilation._command.cache_clear()
    compilation._target.cache_clear()


@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_compiles_for_the_instruction_set_in_use(cache: Path, capability: str) -> None:
    assert is_right(start(cache, FUSEDGRAD_CPU_CAPABILITY=capability))


def test_kernels_link_to_nothing_of_pytorch(cache: Path) -> None:
    assert works()
    (entry,) = entries(cache)
    needed = subprocess.run(
        ["readelf", "--dynamic", str(entry)], capture_output=True, text=True, check=True
    ).stdout
    assert "SONAME" in needed or "SYMTAB" in needed
    assert "torch" not in needed
    assert "c10" not in needed
