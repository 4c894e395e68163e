"""The documentation's code runs as it stands, and prints what the documentation says it prints."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What the block before it prints.
OUTPUT = re.compile(r"\s*^```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page for page in DOCS.glob("*.md") if CODE.search(page.read_text()))
README = DOCS.parent / "README.md"
# To a file, pictures included.
LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)")
END_OF_BLOCK = "\N{END OF MEDIUM}"


def script(text: str) -> str:
    """The blocks of a page one after the other, on the lines where they stand."""
    lines = [""] * (text.count("\n") + 1)
    for block in CODE.finditer(text):
        first = text.count("\n", 0, block.start(1))
        body = block[1].splitlines()
        lines[first : first + len(body)] = body
        lines[first + len(body)] = f"print({END_OF_BLOCK!r})"
    return "\n".join(lines) + "\n"


def test_usage_has_code() -> None:
    assert DOCS / "usage.md" in PAGES


@pytest.mark.sampled(8)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    copy = tmp_path / f"{page.stem}.py"
    copy.write_text(script(text))
    # A process of its own: a page sets up torch.distributed.
    done = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(f"{END_OF_BLOCK}\n")
    compared = 0
    for block, output in zip(CODE.finditer(text), printed, strict=False):
        stated = OUTPUT.match(text, block.end())
        if stated is not None:
            compared += 1
            line = text.count("\n", 0, block.end())
            assert output.strip() == stated[1].strip(), f"what the block that ends at {line} prints"
    assert compared == text.count("```output\n")


# Whoever reads it copies one block.
@pytest.mark.parametrize("block", CODE.findall(README.read_text()), ids=itertools.count())
def test_each_block_of_the_readme_runs_by_itself(block: str, tmp_path: Path) -> None:
    copy = tmp_path / "block.py"
    copy.write_text(block)
    done = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_every_page_is_in_the_index_and_every_link_leads_to_a_file() -> None:
    pages = [*sorted(DOCS.glob("*.md")), README]
    linked = {
        page: [(page.parent / target).resolve() for target in LINK.findall(page.read_text())]
        for page in pages
    }
    index = DOCS / "README.md"
    assert set(pages) - {index, README} <= set(linked[index])
    missing = [
        f"{page.name}: {target}"
        for page, targets in linked.items()
        for target in targets
        if not target.exists()
    ]
    assert missing == []
