"""CONTRIBUTING.md's worked example is complete, and CHANGELOG.md knows this version."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fusedgrad import __version__

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)

MOST_FILES, MOST_ADDED_LINES = 8, 150

# Of these tests what the example adds: values and derivatives against mpmath, torch.func,
# torch.compile, opcheck, formulas, the emulated device.
TESTS = ("autograd", "transforms", "compile", "operators", "reference", "cuda_kernels")


def example() -> str:
    return "".join(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()))


def run(command: Sequence[str], folder: Path, given: str | None = None) -> str:
    # Where there is a ccache, it shall know the files by their place in the copy.
    own = {"PYTHONPATH": str(folder / "python"), "CCACHE_BASEDIR": str(folder)}
    own |= {"CCACHE_NOHASHDIR": "1", "FUSEDGRAD_WERROR": "1", "FUSEDGRAD_CUDA": "0"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | own,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_worked_example_is_short_and_applies() -> None:
    change = example()
    files = re.findall(r"^\+\+\+ b/(.*)$", change, re.MULTILINE)
    folders = {"csrc/math", "csrc/cpu", "csrc/cuda", "csrc/operators"}
    folders |= {"python/fusedgrad", "python/fusedgrad/operations", "tests"}
    assert {str(Path(file).parent) for file in files} == folders
    assert len(files) <= MOST_FILES
    added = re.findall(r"^\+(?!\+\+ )", change, re.MULTILINE)
    assert len(added) <= MOST_ADDED_LINES
    run(["git", "apply", "--check", "--verbose"], ROOT, change)


@pytest.mark.slow
def test_the_worked_example_builds_and_passes_its_tests(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "build", "dist", "*.so", "*.pyc")
    shutil.copytree(ROOT, copy, ignore=ignored)
    run(["git", "apply"], copy, example())
    (copy / "build").mkdir()
    run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], copy)
    files = [f"tests/test_{name}.py" for name in TESTS]
    found = run([sys.executable, "-m", "pytest", "-k", "logsigmoid", *files], copy)
    for name in TESTS:
        assert re.search(rf"^tests/test_{name}\.py ", found, re.MULTILINE), found
    assert re.search(r"\d+ passed", found), found


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert versions[0] == __version__
