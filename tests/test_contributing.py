"""CONTRIBUTING.md's worked example still applies, and CHANGELOG.md knows this version."""

import re
import subprocess
from pathlib import Path

from fusedgrad import __version__

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_worked_example_applies() -> None:
    change = "".join(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()))
    folders = {"csrc/math", "csrc/cpu", "csrc/cuda", "csrc/operators"}
    folders |= {"python/fusedgrad", "python/fusedgrad/operations", "tests"}
    found = re.findall(r"^\+\+\+ b/(.*)/[^/]+$", change, re.MULTILINE)
    assert set(found) == folders
    done = subprocess.run(
        ["git", "apply", "--check", "--verbose"],
        cwd=ROOT,
        input=change,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert versions[0] == __version__
