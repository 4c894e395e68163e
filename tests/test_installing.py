"""What a build says where it cannot be: one sentence that names what is needed."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# torch as setup.py uses it, and setuptools, which builds nothing.
TORCH = """
__version__ = "{version}"
class version:
    cuda = {cuda!r}
class _C:
    _cuda_getArchFlags = lambda: "sm_50 sm_90 sm_120 compute_120"
class cuda:
    gpus = {gpus}
    is_available = lambda: len(cuda.gpus) > 0
    device_count = lambda: len(cuda.gpus)
    get_device_capability = lambda i: cuda.gpus[i]
"""
EXTENSION = """
from setuptools.command.build_ext import build_ext
import os
CUDA_HOME = None
include_paths = library_paths = lambda *_: []
class BuildExtension(build_ext):
    def run(self):
        print("it builds", os.environ.get("TORCH_CUDA_ARCH_LIST", ""), sep="")
"""
SETUP = """
import runpy, sys
{before}
sys.argv = ["setup.py", "--quiet", *{commands}]
runpy.run_path("setup.py", run_name="__main__")
"""


def build(
    folder: Path,
    *commands: str,
    version: str = "2.13.0",
    cuda: str | None = None,
    gpus: Sequence[tuple[int, int]] = (),
    before: str = "",
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """A build against a torch of this version."""
    package = folder / "torch" / "utils"
    package.mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(
        TORCH.format(version=version, cuda=cuda, gpus=gpus)
    )
    (package / "__init__.py").write_text("")
    (package / "cpp_extension.py").write_text(EXTENSION)
    program = SETUP.format(before=before, commands=commands or ("build_ext",))
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_compiler(folder: Path, macros: str) -> str:
    """A compiler that can do no more than tell what it is."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\necho '{macros}'\n")
    path.chmod(0o755)
    return str(path)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """All that it says."""
    assert done.returncode == 1
    (line,) = done.stderr.strip().split("\n")
    assert line.startswith("fusedgrad cannot be built: ")
    assert line.endswith(".")
    return line


def test_it_builds(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "it builds\n"
    assert done.stderr == ""


def test_an_untested_torch_warns_once_when_it_builds(tmp_path: Path) -> None:
    done = build(tmp_path, version="3.0.0.dev1+cu140")
    assert done.returncode == 0
    assert done.stderr.count("warning: fusedgrad was tested with torch 2.10 to ") == 1
    assert "3.0.0.dev1+cu140" in done.stderr
    asked = build(tmp_path / "again", "--version", version="3.0.0")
    assert asked.stderr == ""


@pytest.mark.parametrize("version", ["2.9.1", "1.13.1+cpu"])
def test_an_old_torch(tmp_path: Path, version: str) -> None:
    assert f"torch {version} is installed, it needs 2.10" in sentence(
        build(tmp_path, version=version)
    )


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("sys.modules['torch'] = None", "finds none; install torch first"),
        ("sys.modules['pybind11'] = None", "it needs pybind11"),
        ("sys.version_info = (3, 10, 13)", "it needs 3.11 or newer"),
    ],
)
def test_what_is_missing(tmp_path: Path, before: str, said: str) -> None:
    assert said in sentence(build(tmp_path, before=before))


@pytest.mark.parametrize(("version", "status"), [("65.5.0", 1), ("77.0.1", 0)])
def test_an_old_setuptools(tmp_path: Path, version: str, status: int) -> None:
    (tmp_path / "setuptools").mkdir()
    (tmp_path / "setuptools" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (tmp_path / "setuptools" / "build_meta.py").write_text("")
    (tmp_path / "torch.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import build_backend"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    if status:
        assert f"setuptools {version} is installed, it needs 77 or newer" in sentence(done)


def test_a_compiler_that_is_too_old(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, "#define __GNUC__ 11")
    said = sentence(build(tmp_path, CXX=compiler))
    assert f"'{compiler}' is g++ 11; install g++ 12 or newer" in said


@pytest.mark.parametrize(
    "macros", ["#define __GNUC__ 12", "#define __GNUC__ 4 #define __clang__ 1"]
)
def test_other_compilers_are_tried(tmp_path: Path, macros: str) -> None:
    assert build(tmp_path, CXX=fake_compiler(tmp_path, macros)).returncode == 0


def toolkit(folder: Path, version: int) -> str:
    """A CUDA toolkit that can do no more than tell what it is."""
    (folder / "bin").mkdir()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\nprintf 'sm_75\\nsm_80\\nsm_86\\nsm_90\\nsm_110\\nsm_120\\n'\n")
    nvcc.chmod(0o755)
    (folder / "include").mkdir()
    header = f"#define CUDART_VERSION  {version}\n"
    (folder / "include" / "cuda_runtime_api.h").write_text(header)
    return str(folder)


@pytest.mark.parametrize(
    ("gpus", "named", "built"),
    [
        ([], "", "7.5;8.0;8.6;9.0;11.0;12.0+PTX"),
        ([(9, 0)], "", "9.0"),
        ([(9, 0), (8, 6), (9, 0)], "", "8.6;9.0"),
        ([(8, 0), (13, 0)], "", "12.0+PTX;8.0"),
        ([(9, 0)], "all", "7.5;8.0;8.6;9.0;11.0;12.0+PTX"),
        ([(9, 0)], "8.9+PTX", "8.9+PTX"),
    ],
)
def test_architectures(
    tmp_path: Path, gpus: Sequence[tuple[int, int]], named: str, built: str
) -> None:
    home = toolkit(tmp_path, 13000)
    done = build(tmp_path, cuda="13.0", gpus=gpus, CUDA_HOME=home, TORCH_CUDA_ARCH_LIST=named)
    assert (done.stdout, done.stderr) == (f"it builds{built}\n", "")


def test_an_old_gpu(tmp_path: Path) -> None:
    home = toolkit(tmp_path, 13000)
    said = sentence(build(tmp_path, cuda="13.0", gpus=[(7, 0)], CUDA_HOME=home))
    assert "of compute capability 7.0" in said


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (12040, "is 12.4, it needs 12.8 or newer"),
        (12090, "is 12.9, and torch was built with 13.0, another major version"),
    ],
)
def test_another_toolkit(tmp_path: Path, version: int, said: str) -> None:
    home = toolkit(tmp_path, version)
    assert said in sentence(build(tmp_path, cuda="13.0", CUDA_HOME=home))
    without = build(tmp_path / "without", cuda="13.0", CUDA_HOME=home, FUSEDGRAD_CUDA="0")
    assert without.returncode == 0


DRIVER = """
#include <cstdlib>
extern "C" int cuInit(unsigned) { return 100; }  // there is no device
extern "C" int cuDriverGetVersion(int* v) { *v = std::atoi(std::getenv("DRIVER")); return 0; }
extern "C" int cuGetProcAddress_v2(const char* name, void** found, int, unsigned long, int* why) {
  const std::string_view wanted = name;
  *found = wanted == "cuDriverGetVersion" ? (void*)cuDriverGetVersion
           : wanted == "cuGetProcAddress" ? (void*)cuGetProcAddress_v2 : (void*)cuInit;
  if (why) *why = 0;
  return 0;
}
"""
DEVICES = """
import ctypes, sys
runtime, count = ctypes.CDLL(sys.argv[1]), ctypes.c_int()
print(runtime.cudaGetDeviceCount(ctypes.byref(count)))
"""


def test_the_run_time_takes_the_oldest_driver_of_its_major_version(tmp_path: Path) -> None:
    # So does the one that the kernels are linked with, of the same package
    packages = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "lib")
    (tmp_path / "driver.cpp").write_text("#include <string_view>" + DRIVER)
    compile_it = ["c++", "-std=c++20", "-shared", "-fPIC", "driver.cpp", "-o", "libcuda.so.1"]
    subprocess.run(compile_it, cwd=tmp_path, check=True)
    found = [
        subprocess.run(
            [sys.executable, "-c", DEVICES, packages / "libcudart.so.13"],
            env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "DRIVER": version},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for version in ("12090", "13000", "13040")
    ]
    assert found == ["35\n", "100\n", "100\n"]  # an insufficient driver, no device


def test_no_compiler(tmp_path: Path) -> None:
    assert "install g++ 12 or newer" in sentence(build(tmp_path, CXX="no-such-compiler"))
