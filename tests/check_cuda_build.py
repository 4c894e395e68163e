"""Checks a CUDA build without a GPU: it imports, computes on the CPU and holds its architectures.

Run by `make test-cuda-build` under a CPU build and a CUDA build of torch.
"""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

import fusedgrad
from fusedgrad import _C
from fusedgrad.fuse import nvrtc


def architectures_in(library: Path) -> tuple[set[str], set[str]]:
    """Those of machine code and those of PTX, as in '9.0', read by cuobjdump from the file."""
    cuobjdump = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "cuobjdump")
    found = []
    for option in ("--list-elf", "--list-ptx"):
        listing = subprocess.run(
            [cuobjdump, option, library], capture_output=True, text=True, check=True
        ).stdout
        found.append({f"{n[:-1]}.{n[-1]}" for n in re.findall(r"sm_(\d+)", listing)})
    return found[0], found[1]


def check_fused() -> None:
    """Code of a fused function gets as far as the driver, which is missing."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key("fusedgrad::fused", "CUDA")
    for function in ("pow", "sigmoid", "tanh"):
        assert _C.add_cuda_jet(function, 7, torch.float16, [0] * 5, function == "pow") >= 0
    if torch.cuda.is_available():
        return
    code = nvrtc.code_of(fusedgrad.fuse(lambda x: x * x).source("cuda"), "sm_90")
    with pytest.raises(RuntimeError, match="CUDA driver"):
        _C.add_fused_cuda_kernel(code, False, [1], [torch.float32] * 2, 0, False, 0)


def main() -> None:
    print(fusedgrad.show_config(), end="")
    x = torch.linspace(-90, 90, 1001, dtype=torch.float64)
    torch.testing.assert_close(fusedgrad.sigmoid(x), torch.sigmoid(x))
    named = set(_C.cuda_architectures())
    assert named, "no CUDA kernels in this build"
    machine_code, ptx = architectures_in(Path(_C.__file__))
    wanted_ptx = {name.removesuffix("+PTX") for name in named if name.endswith("+PTX")}
    assert machine_code == {name.removesuffix("+PTX") for name in named}, machine_code
    assert ptx == wanted_ptx, ptx
    check_fused()
    print(f"machine code for {sorted(machine_code, key=float)}, PTX for {sorted(ptx)}")


if __name__ == "__main__":
    main()
