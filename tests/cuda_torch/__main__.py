"""Builds, and runs pytest with these arguments on the emulated device."""

import os
import sys

from . import LIBRARY, build

if __name__ == "__main__":
    build()
    paths = [str(LIBRARY), os.path.dirname(os.path.dirname(__file__))]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "-p", "cuda_torch", *sys.argv[1:]])
