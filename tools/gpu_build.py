"""`make gpu-build PYTHON_VERSION=3.12 TORCH=2.11.0+cu130 ARCH=9.0`: a build to carry to a GPU.

It is made where there is none, in build/gpu/lib, to be carried along: `make gpu` there takes it,
where Python and torch are of these versions. It is made by PYTHON, if that has such a torch, else
in an environment of its own in build/gpu-venv, from the registry.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.matrix import ROOT, interpreter, requirements, uv

VENV = ROOT / "build" / "gpu-venv"
VERSIONS = "import sys, torch; print(*sys.version_info[:2], sep='.'); print(torch.__version__)"
TOOLKIT = Path(sysconfig.get_path("purelib"), "nvidia", "cu13")


def versions(python: str) -> list[str]:
    """Of a Python and its torch; nothing where it has none."""
    command = [python, "-c", VERSIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return done.stdout.split()


def made(python: str, torch: str) -> str:
    """The Python of an environment of its own."""
    command = [uv(), "venv", "--clear", "--python", interpreter(python), str(VENV)]
    subprocess.run(command, check=True)
    program = str(VENV / "bin" / "python")
    release = torch.partition("+")[0]  # a registry has one build of it
    install = [uv(), "pip", "install", "--python", program, *requirements(release)]
    subprocess.run(install, check=True)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="python3", help="one that may have torch already")
    parser.add_argument("--python-version", required=True)
    parser.add_argument("--torch", required=True)
    parser.add_argument("--arch", required=True)
    options = parser.parse_args()
    wanted = [options.python_version, options.torch]
    candidates = (options.python, str(VENV / "bin" / "python"))
    program = next((each for each in candidates if versions(each) == wanted), None)
    program = program or made(*wanted)
    if versions(program) != wanted:
        sys.exit(f"make gpu-build: {program} has {versions(program)}, expected {wanted}")
    environment = {"CUDA_HOME": str(TOOLKIT), **os.environ}
    environment["PATH"] = f"{Path(program).parent}:{environment['PATH']}"
    command = [program, "-m", "benchmarks.gpu", "--build", options.arch]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
