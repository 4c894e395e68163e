"""Checks what `make dist` made, and the README's ways to install, in environments of their own.

Run by `make test-dist`. torch is taken from the environment this runs in. The compiler of the
installations compiles nothing: what it links is the library that `make build` made here.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# Its kernels are of no other function, so that they must be compiled.
FUSE = """
import fusedgrad, torch
f = fusedgrad.fuse(lambda x, z: fusedgrad.sigmoid(x) * fusedgrad.tanh(z) + 7 * x)
x = torch.linspace(-9, 9, 1000, requires_grad=True)
y = f(x, x.detach().flip(0))
y.sum().backward()
wide = x.detach().double()
exact = torch.sigmoid(wide) * torch.sigmoid(-wide) * torch.tanh(-wide) + 7
torch.testing.assert_close(x.grad.double(), exact, rtol=1e-5, atol=0)
print("a fused function from", fusedgrad.__file__)
"""


def tracked(*folders: str) -> set[str]:
    """The files that git knows."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listing.stdout.split("\0")) - {""}


def only(pattern: str) -> Path:
    """The one file in dist of that name."""
    (path,) = DIST.glob(pattern)
    return path


def check_source(path: Path, version: str) -> None:
    """It holds every file of the repository, and what setuptools adds."""
    with tarfile.open(path) as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    top = f"fusedgrad-{version}/"
    assert all(name.startswith(top) for name in names), names
    missing = tracked() - {name.removeprefix(top) for name in names}
    assert not missing, f"not in {path.name}: {sorted(missing)}"


def check_wheel(path: Path, version: str) -> None:
    """It holds the package, its types, its library and the headers that fuse includes."""
    platform = rf"manylinux_\d+_\d+_{os.uname().machine}"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert re.fullmatch(rf"fusedgrad-{version}-{python}-{python}-{platform}\.whl", path.name)
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    expected = {name.removeprefix("python/") for name in tracked("python")}
    expected |= {f"fusedgrad/_C{sysconfig.get_config_var('EXT_SUFFIX')}"}
    headers = tracked("csrc/math", "csrc/cuda", "csrc/cpu/block.h", "csrc/dtype.h")
    expected |= {
        f"fusedgrad/include/{name.removeprefix('csrc/')}"
        for name in headers
        if not name.endswith(".cu")
    }
    package = {name for name in names if name.startswith("fusedgrad/")}
    assert package == expected, package ^ expected
    assert f"fusedgrad-{version}.dist-info/licenses/LICENSE" in names


def check_installed(wheel: Path) -> None:
    """Its own check and a fused function, in an environment that knows nothing of the source."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"FUSEDGRAD_CACHE_DIR": str(folder / "cache")}

        def run(*arguments: str) -> None:
            subprocess.run([python, *arguments], cwd=folder / "empty", env=environment, check=True)

        def kernels() -> int:
            return len(list((folder / "cache").glob("*.so")))

        (folder / "empty").mkdir()
        (site_packages,) = folder.glob("venv/lib/python*/site-packages")
        (site_packages / "torch.pth").write_text(sysconfig.get_path("purelib"))
        # Without dependencies: pip would renew the setuptools that torch finds here.
        run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel))
        run("-W", "error", "-m", "fusedgrad")
        before = kernels()
        run("-W", "error", "-c", FUSE)
        assert 0 < before < kernels(), "fused functions were not compiled"


# What is asked without an output, as its version, a real compiler answers.
COMPILER = """#!/bin/sh
for argument; do
  case $before in -o) output=$argument ;; esac
  before=$argument
done
case $output in
  "") exec c++ "$@" ;;
  *.so) cp {library} "$output" ;;
  *) : >"$output" ;;
esac
"""
# As the README has them, in the folder of the source.
INSTALLATIONS = (
    "pip install .",
    "uv pip install --no-build-isolation .",
    "pip install --no-build-isolation -e .",
)


def check_installation(command: str) -> None:
    """It installs a package that computes, and fuses what it was not told before."""
    assert f"\n{command} " in (ROOT / "README.md").read_text(), command
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        for path in tracked():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
        venv.create(folder / "venv")
        binary = folder / "venv" / "bin"
        (site_packages,) = folder.glob("venv/lib/python*/site-packages")
        # First, since the tools are not to be older than those that are pinned.
        found = f"import sys; sys.path.insert(0, {sysconfig.get_path('purelib')!r})"
        (site_packages / "torch.pth").write_text(found)
        compiler = folder / "compiler"
        (library,) = (ROOT / "python" / "fusedgrad").glob("_C*.so")
        compiler.write_text(COMPILER.format(library=library))
        compiler.chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {
            "PATH": f"{binary}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(binary.parent),
            "FUSEDGRAD_CACHE_DIR": str(folder / "cache"),
        }
        install = [*command.split(), "--quiet", "--no-deps"]
        if install[0] == "pip":
            install[:1] = [str(binary / "python"), "-m", "pip"]
        linked = {"CXX": str(compiler), "FUSEDGRAD_CUDA": "0"}
        subprocess.run(install, cwd=source, env=environment | linked, check=True)
        empty = folder / "empty"
        empty.mkdir()
        python = [str(binary / "python"), "-W", "error", "-c", FUSE]
        done = subprocess.run(
            python, cwd=empty, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        where = source if "-e" in install else binary.parent
        assert f"from {where}/" in done.stdout, done.stdout
        print(f"{command}: {done.stdout.strip()}")


def main() -> None:
    version_file = (ROOT / "python" / "fusedgrad" / "version.py").read_text()
    (version,) = re.findall(r'^__version__ = "(.+)"$', version_file, re.MULTILINE)
    source, wheel = only("*.tar.gz"), only("*.whl")
    check_source(source, version)
    check_wheel(wheel, version)
    check_installed(wheel)
    for command in INSTALLATIONS:
        check_installation(command)
    for path in (source, wheel):
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
