"""The stand-in for the CUDA runtime library, and how libraries are compiled against it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cuda_emulator import CompilationError, Device, compile_library, find_nvcc
from cuda_emulator import compile as compiler

SOURCE = """
__global__ void fill(int* out) { out[threadIdx.x] = VALUE; }
extern "C" int launch_fill(int* out) { fill<<<1, 8>>>(out); return cudaGetLastError(); }
"""


def test_another_runtime_library_in_the_process_is_not_in_the_way(tmp_path: Path) -> None:
    other = tmp_path / "libcudart.c"
    other.write_text(
        "int cudaGetLastError(void) { return 99; } int cudaLaunchKernel() { return 99; }"
    )
    library = tmp_path / "libcudart.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, other], check=True)
    source = tmp_path / "fill.cu"
    source.write_text(SOURCE.replace("VALUE", "7"))
    script = textwrap.dedent(
        f"""
        import ctypes, pathlib
        ctypes.CDLL({str(library)!r}, mode=ctypes.RTLD_GLOBAL)
        from cuda_emulator import Device, compile_library
        device = Device()
        with device.loaded(compile_library([pathlib.Path({str(source)!r})])) as launchers:
            out = device.empty(8, "i4")
            assert launchers.launch_fill(ctypes.c_void_p(out.pointer)) == 0
            assert (out.numpy() == 7).all()
        """
    )
    root = Path(compiler.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_changed_source_or_header_is_compiled_again(tmp_path: Path) -> None:
    header, source = tmp_path / "value.h", tmp_path / "fill.cu"
    source.write_text('#include "value.h"' + SOURCE)
    found = []
    for value in (1, 2, 1):
        header.write_text(f"#define VALUE {value}\n")
        found.append(compile_library([source], cache_dir=tmp_path / "cache"))
    assert found[0].path != found[1].path
    assert found[0] == found[2]


def test_two_sources_of_one_name_make_one_library(tmp_path: Path) -> None:
    sources = []
    for number in (3, 4):
        folder = tmp_path / str(number)
        folder.mkdir()
        sources.append(folder / "fill.cu")
        text = SOURCE.replace("VALUE", str(number)).replace("fill", f"fill_{number}")
        sources[-1].write_text(text)
    device = Device()
    with device.loaded(compile_library(sources, cache_dir=tmp_path / "cache")) as launchers:
        for number in (3, 4):
            out = device.empty(8, "i4")
            assert launchers[f"launch_fill_{number}"](ctypes.c_void_p(out.pointer)) == 0
            assert out.numpy().tolist() == [number] * 8


def test_error_of_the_compiler_is_shown(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong( {}")
    with pytest.raises(CompilationError, match=r"wrong\.cu"):
        compile_library([source], cache_dir=tmp_path / "cache")
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_nvcc_is_found_where_cuda_home_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    find_nvcc.cache_clear()
    assert find_nvcc() == tmp_path / "bin" / "nvcc"
    find_nvcc.cache_clear()


def test_launch_without_a_device_fails(tmp_path: Path) -> None:
    source = tmp_path / "fill.cu"
    source.write_text(SOURCE.replace("VALUE", "5"))
    device = Device()
    with device.loaded(compile_library([source], cache_dir=tmp_path / "cache")) as launchers:
        pass
    out = device.empty(8, "i4")
    assert launchers.launch_fill(ctypes.c_void_p(out.pointer)) == 100  # cudaErrorNoDevice


LOADER = """
extern "C" int load(const char* code, const char* name, cudaLibrary_t* library,
                    cudaKernel_t* kernel) {
  cudaError_t error = cudaLibraryLoadData(library, code, 0, 0, 0, 0, 0, 0);
  return error ? error : cudaLibraryGetKernel(kernel, *library, name);
}
extern "C" int launch(cudaKernel_t kernel, int* out, int value) {
  void* arguments[] = {&out, &value};
  return cudaLaunchKernel((const void*)kernel, 1, 8, arguments, 0, 0);
}
extern "C" int unload(cudaLibrary_t library) { return cudaLibraryUnload(library); }
"""
PTX = b"""
.version 8.0
.target sm_75
.address_size 64
.visible .entry fill(.param .u64 out, .param .u32 value) {
  .reg .b32 %r<3>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %tid.x;
  mul.wide.u32 %rd2, %r2, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r1;
  ret;
}
"""


def test_kernels_of_libraries_loaded_at_run_time_are_launched(tmp_path: Path) -> None:
    source = tmp_path / "loader.cu"
    source.write_text(LOADER)
    device = Device()
    with device.loaded(compile_library([source], cache_dir=tmp_path / "cache")) as launchers:
        library, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        references = ctypes.byref(library), ctypes.byref(kernel)
        assert launchers.load(b"\x7fELF of a cubin", b"fill", *references) == 209  # NoKernelImage
        assert launchers.load(PTX, b"empty", *references) == 500  # SymbolNotFound
        assert launchers.load(PTX, b"fill", *references) == 0
        out = device.empty(8, "i4")
        assert launchers.launch(kernel, ctypes.c_void_p(out.pointer), 7) == 0
        assert out.numpy().tolist() == [7] * 8
        assert launchers.unload(library) == 0
        assert launchers.launch(kernel, ctypes.c_void_p(out.pointer), 7) == 98  # InvalidFunction
