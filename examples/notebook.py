"""`python examples/notebook.py`: runs derivatives.ipynb and compares what it prints with the file.

Numbers may differ in their last digits, which are the processor's in torch's derivatives. --write
keeps the outputs in the file instead, without what differs from run to run.
"""

import argparse
import math
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("derivatives.ipynb")


def executed(notebook: NotebookNode) -> NotebookNode:
    """A copy with the outputs of a new run; an error in a cell is raised."""
    copy = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = NotebookClient(copy, timeout=300, startup_timeout=300, record_timing=False)
    return client.execute(cwd=str(NOTEBOOK.parent))


def printed(cell: NotebookNode) -> str:
    """The text that a cell printed."""
    return "".join(output["text"] for output in cell.get("outputs", ()))


def alike(old: str, new: str) -> bool:
    """Whether two words are the same, or numbers of four equal digits, or two errors below 1e-6."""
    try:
        a, b = float(old), float(new)
    except ValueError:
        return old == new
    error = re.compile(r"\de-\d\d")  # as the notebook formats an error, and nothing else
    if error.fullmatch(old) and error.fullmatch(new):
        return max(a, b) < 1e-6 or max(a, b) < 10 * min(a, b)
    return math.isclose(a, b, rel_tol=1e-4)


def agree(old: str, new: str) -> bool:
    """Whether two texts agree word by word."""
    pairs = list(zip(old.split(), new.split(), strict=False))
    return len(old.split()) == len(new.split()) and all(alike(a, b) for a, b in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the outputs in the notebook")
    options = parser.parse_args()
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    new = executed(notebook)
    if options.write:
        new.metadata = {"language_info": {"name": "python"}}
        nbformat.write(new, NOTEBOOK)  # type: ignore[no-untyped-call]
        return 0
    status = 0
    for cell, again in zip(notebook.cells, new.cells, strict=True):
        print(printed(again), end="")
        if not agree(printed(cell), printed(again)):
            print(f"^ {NOTEBOOK.name} has instead:\n{printed(cell)}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
