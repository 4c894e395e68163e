"""Checks what `make dist` made: complete, and the wheel works in an environment of its own.

Run by `make test-dist`. torch is taken from the environment this runs in.
"""

import os
import re
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


def main() -> None:
    version_file = (ROOT / "python" / "fusedgrad" / "version.py").read_text()
    (version,) = re.findall(r'^__version__ = "(.+)"$', version_file, re.MULTILINE)
    source, wheel = only("*.tar.gz"), only("*.whl")
    check_source(source, version)
    check_wheel(wheel, version)
    check_installed(wheel)
    for path in (source, wheel):
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
