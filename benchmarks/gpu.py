"""`make gpu`: what this machine's GPU says of fusedgrad, in one report that is written as it goes.

A build for this GPU, unless one was carried along in build/gpu/lib (`make gpu-build`), then parts
that each have their time: every operator and dtype against the CPU, the tests of the device, the
speed beside PyTorch's own kernels, compute-sanitizer. No network is read and nothing installed. The
report is <device>.json and <device>.md in benchmarks/results, written again after each part, and
whole within 8 minutes and the time of a build.

--rehearse puts the emulated device in the GPU's place, and the CPU where time is measured.
--build builds and does nothing else; --write puts what the reports say into README.md and docs.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build" / "gpu"
LIB = BUILD / "lib"
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
NO_REPORT = "No GPU has run fusedgrad yet: `benchmarks/results/` holds no report."
KERNELS = ("tests/test_cuda_kernels.py", "tests/test_fuse_cuda.py")
FILES = ("tests/test_gpu.py", "tests/test_cuda_jets.py", "tests/test_taylor.py", *KERNELS)
BITS = "tests/test_cuda_bits.py"
PYTEST = (
    *("-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-W", "default"),  # what this machine's versions warn of is no failure
)
# One kernel of each kind is enough: the sanitizer runs a kernel some hundred times slower.
SANITIZED = "[cuda and (129 or reduction)"
# What the parts import beside torch.
NEEDED = ("numpy", "pytest", "mpmath", "tqdm", "matplotlib", "cuda.bindings")
_PARTS = ("Build", "Checks", "Tests", "Speed", "Bits", "compute-sanitizer")
SECONDS = dict(zip(_PARTS, (240, 75, 145, 80, 95, 40), strict=True))
GRACE = 5  # seconds in which a part that has used its own may still say what it found

Part = dict[str, Any]
Report = dict[str, Any]


# ----------------------------------------------------------------------------------------- a build


def made_of() -> dict[str, str]:
    """What a build depends on, but for its architectures."""
    digest = hashlib.sha256()
    kept = (".h", ".cuh", ".cu", ".cpp", ".py")
    for folder in ("csrc", "python"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in kept:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    digest.update((ROOT / "setup.py").read_bytes())
    return {
        "torch": torch.__version__,
        "python": str(sysconfig.get_config_var("SOABI")),
        "source": digest.hexdigest(),
    }


def carried(gpu: str | None) -> bool:
    """Whether build/gpu/lib holds a build of this source for this Python, torch and GPU, or any."""
    note = LIB / "made-of.json"
    if not note.exists():
        return False
    noted = json.loads(note.read_text())
    named = noted.pop("architectures").removesuffix("+PTX").split(";")
    return bool(noted == made_of()) and (gpu is None or gpu in named)


def build(architectures: str) -> int:
    """Builds into build/gpu/lib, and notes what of; the exit status."""
    shutil.rmtree(LIB, ignore_errors=True)
    note = {**made_of(), "architectures": architectures}  # before it could change
    arguments = ["build", "--build-base", str(BUILD), "--build-platlib", str(LIB)]
    environment = {**os.environ, "FUSEDGRAD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architectures}
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status == 0:
        (LIB / "made-of.json").write_text(json.dumps(note))
        size = sum(path.stat().st_size for path in LIB.rglob("*") if path.is_file())
        print(f"{LIB.relative_to(ROOT)}: {size / 2**20:.1f} MiB, for {architectures}")
    return status


# ----------------------------------------------------------------------------------------- parts


def stop(process: subprocess.Popen[str]) -> None:
    """By an interrupt, at which pytest says what has failed until then; else by force."""
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(GRACE)
            return
        except subprocess.TimeoutExpired:
            pass


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> Part:
    """Runs a program for at most so long: rows are lines of JSON that it prints."""
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A background job of a shell ignores interrupts, and what it starts would.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            status = process.wait(seconds)
            verdict = "passed" if status == 0 else f"failed with exit status {status}"
        except subprocess.TimeoutExpired:
            stop(process)
            verdict = f"stopped after {seconds:.0f} s"
        output.seek(0)
        lines = output.read().splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    text = "\n".join(line for line in lines if not line.startswith("{"))
    took = round(time.monotonic() - begin, 1)
    return {
        "command": " ".join(command).replace(f"{ROOT}/", ""),
        "verdict": verdict,
        "seconds": took,
        "rows": rows,
        "text": text,
    }


def tests(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> Part:
    """As `run`, of pytest: how many passed and failed, and the messages of those that did."""
    part = run(command, seconds, environment)
    ended = [
        match[1]
        for line in part["text"].splitlines()
        if (match := re.search(r"::.* (PASSED|FAILED|ERROR|SKIPPED)\b(?! -)", line))
    ]
    for outcome in ("passed", "failed", "error", "skipped"):
        part[outcome] = ended.count(outcome.upper())
    kept = [line for line in part["text"].splitlines() if not re.search(r"::.* PASSED\b", line)]
    part["text"] = "\n".join(kept)
    return part


def commands(rehearse: bool) -> dict[str, list[str]]:
    """Of each part, in its order."""
    python = sys.executable
    chosen = "[emulated and (129 or special)" if rehearse else "[cuda"
    bits = "[emulated-torch.float32-sigmoid]" if rehearse else chosen
    device = ["--device", "emulated" if rehearse else "cuda"]
    few = ["--size", "65", "--only", "sigmoid"] if rehearse else []  # tests/ has them all
    parts = {
        "Checks": [python, "-m", "benchmarks.gpu_checks", *device, *few],
        "Tests": [python, *PYTEST, "-k", chosen, *FILES],
        "Speed": [python, "-m", "benchmarks.gpu_speed", *device],
        # 2^24 of each operation, order and dtype, against the CPU
        "Bits": [python, *PYTEST, "-k", bits, BITS],
    }
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer and not rehearse:
        parts["compute-sanitizer"] = [
            *(sanitizer, "--error-exitcode", "1", python),
            *(*PYTEST, "-k", SANITIZED, *KERNELS),
        ]
    return parts


# ----------------------------------------------------------------------------------------- report


def driver() -> str:
    """Its version, as nvidia-smi says it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return told.split("\n")[0].strip() or "unknown"


def missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:  # of cuda.bindings, without cuda
        return True


def machine(rehearse: bool) -> dict[str, Any]:
    """What the figures depend on."""
    about: dict[str, Any] = {
        "day": str(date.today()),
        "device": "emulated device" if rehearse else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "not installed": [name for name in NEEDED if missing(name)],
    }
    if not rehearse:
        properties = torch.cuda.get_device_properties()
        about |= {
            "driver": driver(),
            "capability": "{}.{}".format(*torch.cuda.get_device_capability()),
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "multiprocessors": properties.multi_processor_count,
        }
    return about


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of rows with the same names, in Markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def outcome(part: Part) -> str:
    """In few words."""
    counted = {
        name: part[name] for name in ("passed", "failed", "error", "skipped") if name in part
    }
    counts = ", ".join(f"{number} {name}" for name, number in counted.items() if number)
    said = f"{part['verdict']}, {part['seconds']:.0f} s"
    return f"{said}: {counts}" if counts else said


def page(report: Report) -> str:
    """The report in Markdown."""
    about = report["machine"]
    facts = [f"{name}: {value}" for name, value in about.items() if value != []]
    sections = [f"# fusedgrad on {about['device']}", "\n".join(f"- {fact}" for fact in facts)]
    for title, part in report["parts"].items():
        kinds: dict[tuple[str, ...], list[Any]] = {}
        for row in part["rows"]:
            kinds.setdefault(tuple(row), []).append(row)
        sections += [f"## {title}: {outcome(part)}", f"`{part['command']}`"]
        sections += [table(rows) for rows in kinds.values()]
        if part["text"]:
            sections.append("```\n" + "\n".join(part["text"].split("\n")[-200:]) + "\n```")
    left = [title for title in report["to come"] if title not in report["parts"]]
    if left:
        sections.append(f"Not run: {', '.join(left)}.")
    return "\n\n".join(sections) + "\n"


def file_name(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def write(report: Report, folder: Path) -> Path:
    """The report's two files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_name(report['machine']['device'])}.md"
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    path.write_text(page(report))
    return path


def summary(report: Report, name: str) -> str:
    """What the pages say of it."""
    about, parts = report["machine"], report["parts"]
    said = [f"{title}: {outcome(part)}" for title, part in parts.items()]
    rows = parts.get("Speed", {}).get("rows", [])
    copies = [row for row in rows if "copy, GB/s" in row]
    lines = [
        f"**{about['device']}**, driver {about['driver']}, torch {about['torch']}, Python "
        f"{about['python']}, {about['day']} (`benchmarks/results/{name}.md`). {'. '.join(said)}."
    ]
    if copies:
        lines.append(f"A copy moves {copies[0]['copy, GB/s']} GB/s.")
    ratios = [row for row in rows if "work" in row]
    return "\n\n".join([" ".join(lines), *([table(ratios)] if ratios else [])])


def summaries(folder: Path = RESULTS) -> str:
    """Of all reports."""
    found = [summary(json.loads(p.read_text()), p.stem) for p in sorted(folder.glob("*.json"))]
    return "\n\n".join(found) or NO_REPORT


def write_pages() -> None:
    from benchmarks.report import write_between_markers  # which imports fusedgrad

    for path in PAGES:
        write_between_markers("gpu", summaries(), path)


# ----------------------------------------------------------------------------------------- program


def measure(options: argparse.Namespace) -> int:
    """Every part, and the report after each."""
    environment = dict(os.environ)
    parts = commands(options.rehearse)
    report: Report = {"machine": machine(options.rehearse), "parts": {}, "to come": list(parts)}
    gpu = report["machine"].get("capability")
    taken = carried(gpu)
    report["machine"]["build"] = "carried along" if taken else "of this machine"
    if taken or gpu:
        environment |= {"PYTHONPATH": f"{LIB}:{os.environ.get('PYTHONPATH', '')}"}
    if gpu and not taken:
        command = [sys.executable, "-m", "benchmarks.gpu", "--build", gpu]
        print(f"Build: {' '.join(command)}", flush=True)
        report["parts"]["Build"] = run(command, SECONDS["Build"], os.environ)
    path = write(report, options.results)
    for title, command in parts.items():
        print(f"{title}: {' '.join(command)}", flush=True)
        runner = tests if "pytest" in command else run
        part = runner(command, SECONDS[title], environment)
        report["parts"][title] = part
        path = write(report, options.results)
        print(f"{title}: {outcome(part)}", flush=True)
    print(path)
    return 0 if all(part["verdict"] == "passed" for part in report["parts"].values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    parser.add_argument("--build", metavar="ARCH", help="build for these architectures")
    parser.add_argument("--write", action="store_true", help="write README.md and docs")
    parser.add_argument("--results", type=Path, help="where the report goes")
    options = parser.parse_args()
    if options.write:
        write_pages()
        return 0
    if options.build:
        return build(options.build)
    if options.results is None:
        options.results = ROOT / "build" / "rehearsal" if options.rehearse else RESULTS
    if not options.rehearse and not torch.cuda.is_available():
        print("make gpu: torch sees no CUDA device on this machine; nothing was run.")
        return 1
    return measure(options)


if __name__ == "__main__":
    sys.exit(main())
