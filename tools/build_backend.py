"""setuptools' build backend, building against the torch that is installed where pip was called.

pip builds in an environment of its own. Were torch a requirement there, pip would install some
torch, often not the one that will load the extension. The packages around pip are hidden from the
build, but belong to the interpreter that runs it. They are looked at last, so that every other
requirement is the build's own.
"""

import importlib.util
import site
import sys

if importlib.util.find_spec("torch") is None:
    for folder in site.getsitepackages():
        site.addsitedir(folder)

import setuptools

OLDEST_SETUPTOOLS = 77  # as pyproject.toml, which nobody reads with --no-build-isolation
if int(setuptools.__version__.partition(".")[0]) < OLDEST_SETUPTOOLS:
    sys.exit(
        f"fusedgrad cannot be built: setuptools {setuptools.__version__} is installed, it needs "
        f"{OLDEST_SETUPTOOLS} or newer; pip install -U setuptools."
    )

from setuptools.build_meta import *  # noqa: E402, F403
