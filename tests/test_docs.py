"""The documentation's code runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page for page in DOCS.glob("*.md") if CODE.search(page.read_text()))


def script(page: Path) -> str:
    """The blocks of the page one after the other, on the lines where they stand."""
    text = page.read_text()
    lines = [""] * (text.count("\n") + 1)
    for block in CODE.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for i, line in enumerate(block[1].splitlines()):
            lines[first + i] = line
    return "\n".join(lines) + "\n"


def test_usage_has_code() -> None:
    assert DOCS / "usage.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_runs(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / f"{page.stem}.py"
    copy.write_text(script(page))
    # A process of its own: a page sets up torch.distributed.
    done = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
