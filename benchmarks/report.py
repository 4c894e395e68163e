"""What the benchmark programs share: the machine, tables, files of results, marked documents."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from tqdm import tqdm

from fusedgrad.version import __version__

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
BUILD = ROOT / "build"

Machine = Mapping[str, Any]


def processor() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_bandwidth(properties: Any) -> float:
    """Bytes a second of a CUDA device's memory, which moves data twice in a period of its clock."""
    return float(2 * properties.memory_clock_rate * 1e3 * properties.memory_bus_width / 8)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Everything that a figure depends on and a reader may want to know."""
    about: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fusedgrad": __version__,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties()
        about |= {"device": properties.name, "peak bandwidth": peak_bandwidth(properties)}
    return about


def conditions(about: Machine) -> str:
    """One line under a table."""
    device = f"{about['device']}; " if "device" in about else ""
    return (
        f"{device}{about['processor']}, {about['cores']} cores, {about['capability']}; "
        f"torch {about['torch']}, fusedgrad {about['fusedgrad']}"
    )


class Journal:
    """A JSON file that is written again as results come, so that an interruption loses seconds."""

    INTERVAL = 5.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = 0.0
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, report: Mapping[str, object]) -> None:
        partial = self.path.with_name(f"{self.path.name}.part")
        partial.write_text(json.dumps(report, indent=1) + "\n")
        partial.replace(self.path)
        self._written = monotonic()

    def write_by_turns(self, report: Mapping[str, object]) -> None:
        if monotonic() - self._written > self.INTERVAL:
            self.write(report)


def progress_bar(total: int, unit: str) -> Any:
    """On a terminal a moving one, in a log a line a minute."""
    interval = 0.5 if sys.stderr.isatty() else 60.0
    return tqdm(total=total, unit=unit, mininterval=interval, dynamic_ncols=True)


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


def write_between_markers(name: str, text: str, path: Path) -> None:
    """Replaces what stands between the markers `<!-- name:begin -->` and `<!-- name:end -->`.

    Appends the markers where there are none, and makes the file where it is missing.

    Raises:
        ValueError: one of the markers stands there without the other, or more than once.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = path.read_text() if path.exists() else ""
    counts = content.count(begin), content.count(end)
    if counts == (0, 0):
        content = f"{content}\n{begin}\n{end}\n".lstrip()
    elif counts != (1, 1):
        raise ValueError(f"{path} holds {begin} {counts[0]} times and {end} {counts[1]} times")
    before, _, rest = content.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
