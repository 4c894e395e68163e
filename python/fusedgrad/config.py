"""What was built, and what of it runs here."""

import torch

from fusedgrad import _C
from fusedgrad.version import __version__


def show_config() -> str:
    """A description of this build, one fact a line, as `torch.__config__.show()` is of PyTorch's.

    The CPU instruction set in use can be forced with the environment variable
    FUSEDGRAD_CPU_CAPABILITY (baseline, avx2 or avx512).
    """
    cuda = "not built"
    if (version := _C.cuda_version()) is not None:
        cuda = f"{version}, built for {', '.join(_C.cuda_architectures())}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    lines = [
        f"fusedgrad {__version__}",
        f"torch: {torch.__version__}, built against {_C.torch_version()}",
        f"CPU: {_C.cpu_capability()} in use, built for {', '.join(_C.cpu_capabilities())}",
        f"CUDA: {cuda}",
        f"CUDA device: {device}",
    ]
    return "\n".join(lines) + "\n"
