"""What the benchmark programs share: the machine's description, Markdown, tables in the README."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from fusedgrad.version import __version__

README = Path(__file__).resolve().parent.parent / "README.md"


def processor() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str | int | None]:
    """Everything that a figure depends on and a reader may want to know."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fusedgrad": __version__,
    }


def conditions() -> str:
    """One line under a table."""
    about = machine()
    return (
        f"{about['processor']}, {about['cores']} cores, {about['capability']}; "
        f"torch {about['torch']}, fusedgrad {about['fusedgrad']}"
    )


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    table = [list(heading), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if index < left else "-" * (w - 1) + ":" for index, w in enumerate(widths)]
    return "\n".join([line(table[0]), line(rule), *map(line, table[1:])])


def write_into_readme(name: str, text: str, readme: Path = README) -> None:
    """Replaces what stands between the markers `<!-- name:begin -->` and `<!-- name:end -->`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = readme.read_text()
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{readme} must hold each of {begin} and {end} once")
    before, _, rest = content.partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}")
