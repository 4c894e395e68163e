"""`make gpu`: the tests, the sanitizer and the benchmark on this machine's GPU, in one report.

Writes `benchmarks/results/<device>.md` and, beside it, the measurements and their pictures. Without
a GPU it says so and exits with 1.
"""

import argparse
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

import fusedgrad

RESULTS = Path(__file__).parent / "results"
FILES = ["tests/test_cuda_kernels.py", "tests/test_fuse_cuda.py"]
TESTS = ["-m", "pytest", "-q", "-k", "[cuda", *FILES]
# One kernel of each kind is enough: the sanitizer runs a kernel some hundred times slower.
SANITIZED = ["-m", "pytest", "-q", "-k", "[cuda and (129 or reduction)", *FILES]


def run(title: str, command: list[str]) -> tuple[str, bool]:
    """A section of the report with the command's output, and whether it succeeded."""
    print(f"{title}: {' '.join(command)}", file=sys.stderr)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    verdict = "passed" if done.returncode == 0 else f"failed with exit status {done.returncode}"
    text = f"## {title}: {verdict}\n\n`{' '.join(command)}`\n\n```\n{done.stdout.strip()}\n```\n"
    return text, done.returncode == 0


def report() -> int:
    device = torch.cuda.get_device_name()
    sections = [
        f"# fusedgrad on {device}\n\n{date.today()}\n\n```\n{fusedgrad.show_config()}```\n",
    ]
    passed = True
    jobs = {"Tests": [sys.executable, *TESTS]}
    if sanitizer := shutil.which("compute-sanitizer"):
        jobs["compute-sanitizer"] = [sanitizer, "--error-exitcode", "1", sys.executable, *SANITIZED]
    else:
        sections.append("## compute-sanitizer: not on PATH, not run\n")
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.md"
    speed = [sys.executable, "-m", "benchmarks.speed", "--device", "cuda"]
    jobs["Speed"] = [*speed, "--json", str(path.with_suffix(".json"))]
    for title, command in jobs.items():
        text, succeeded = run(title, command)
        sections.append(text)
        passed = passed and succeeded
    RESULTS.mkdir(exist_ok=True)
    path.write_text("\n".join(sections))
    print(path)
    return 0 if passed else 1


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not torch.cuda.is_available():
        print("make gpu: torch sees no CUDA device on this machine; nothing was run.")
        return 1
    if fusedgrad._C.cuda_version() is None:
        print("make gpu: this build has no CUDA kernels; build with FUSEDGRAD_CUDA=1.")
        return 1
    return report()


if __name__ == "__main__":
    sys.exit(main())
