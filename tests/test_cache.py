"""Whose code the cache runs: folders and entries of others, links, replacements, a full disk."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import fusedgrad
from fusedgrad.fuse import cache, kernel, nvrtc
from fusedgrad.fuse import compile as compilation

ROOT = Path(__file__).parents[1]
OTHER = 12345  # a user
OURS, THEIRS = b"made by this process", b"left there by another"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache, which is not there yet, in a folder that every user can reach."""
    monkeypatch.setattr(cache, "_warned", set())
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        path = Path(name, "cache")
        monkeypatch.setenv("FUSEDGRAD_CACHE_DIR", str(path))
        yield path


@contextlib.contextmanager
def user(number: int) -> Iterator[None]:
    """This process runs as another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


def ask() -> bytes:
    """What the cache gives for one and the same thing."""
    return cache.kept(b"digest", "source", ".so", b"", lambda: OURS)


def asked_in_silence() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ask()


def sound(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def plant(folder: Path, mode: int = 0o644) -> Path:
    """A sound entry that the cache did not make, under the name that it will look for."""
    folder.mkdir(exist_ok=True)
    name, maker = hashlib.sha256(b"digestsource"), hashlib.sha256(b"")
    entry = folder / f"{name.hexdigest()[:32]}-{maker.hexdigest()[:8]}.so"
    entry.write_bytes(sound(THEIRS))
    entry.chmod(mode)
    return entry


def test_what_the_user_owns_is_used(folder: Path) -> None:
    assert asked_in_silence() == OURS
    (entry,) = folder.iterdir()
    assert entry == plant(folder)  # so that the tests below mean what they say
    assert asked_in_silence() == THEIRS
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("mode", "who"), [(0o775, "its group"), (0o777, "others"), (0o1777, "others"), (0o720, "group")]
)
def test_folder_that_others_may_write_is_neither_read_nor_written(
    folder: Path, mode: int, who: str
) -> None:
    entry = plant(folder)
    folder.chmod(mode)
    with pytest.warns(UserWarning, match=rf"{folder} can be written by .*{who}.*chmod go-w") as got:
        assert [ask(), ask()] == [OURS, OURS]
    assert len(got) == 1
    assert entry.read_bytes() == sound(THEIRS)
    entry.unlink()
    assert asked_in_silence() == OURS
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)  # what the warning asks for
    assert asked_in_silence() == OURS
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_entry_that_others_may_write_is_left_alone(folder: Path, mode: int) -> None:
    entry = plant(folder, mode)
    with pytest.warns(UserWarning, match=f"{entry} can be written by .*chmod go-w {entry}") as got:
        assert [ask(), ask()] == [OURS, OURS]
    assert len(got) == 1
    assert entry.read_bytes() == sound(THEIRS)


def test_another_users_folder_and_entry_are_left_alone(folder: Path) -> None:
    entry = plant(folder)
    with user(0):
        os.chown(folder, OTHER, OTHER)
        with pytest.warns(UserWarning, match=f"belongs to user {OTHER} and this process runs as u"):
            assert ask() == OURS
        os.chown(folder, 0, 0)
        os.chown(entry, OTHER, OTHER)
        with pytest.warns(UserWarning, match=f"{entry} belongs to user {OTHER}"):
            assert ask() == OURS
    assert entry.read_bytes() == sound(THEIRS)


def test_two_users_name_one_folder(folder: Path) -> None:
    folder.mkdir()
    with user(0):
        os.chown(folder, OTHER, OTHER)
    with user(OTHER):
        assert asked_in_silence() == OURS
        plant(folder)
        assert asked_in_silence() == THEIRS
    with user(OTHER + 1), pytest.warns(UserWarning, match=f"{folder} belongs to user {OTHER}"):
        assert ask() == OURS


def test_users_read_what_root_made_for_them(folder: Path) -> None:
    folder.mkdir(0o755)
    before = os.umask(0)
    try:
        assert asked_in_silence() == OURS
    finally:
        os.umask(before)
    (entry,) = folder.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o644
    entry.write_bytes(sound(THEIRS))
    with user(OTHER):
        assert asked_in_silence() == THEIRS
        # What is not there yet cannot be added, and is made all the same.
        assert cache.kept(b"another", "source", ".so", b"", lambda: OURS) == OURS
    assert list(folder.iterdir()) == [entry]


def test_symbolic_link_to_a_folder_is_followed(folder: Path) -> None:
    real = folder.with_name("real")
    real.mkdir(0o700)
    folder.symlink_to(real)
    assert asked_in_silence() == OURS
    plant(real)
    assert asked_in_silence() == THEIRS
    real.chmod(0o777)
    with pytest.warns(UserWarning, match="can be written by others"):
        assert ask() == OURS


def test_entry_that_is_a_symbolic_link_is_replaced(folder: Path) -> None:
    entry = plant(folder)
    elsewhere = folder.with_name("elsewhere")
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    assert asked_in_silence() == OURS
    assert elsewhere.read_bytes() == sound(THEIRS)
    assert not entry.is_symlink()
    assert entry.read_bytes() == sound(OURS)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_entry_that_is_no_file_is_gone_around(folder: Path, make: Callable[[Path], object]) -> None:
    entry = plant(folder)
    entry.unlink()
    make(entry)
    assert asked_in_silence() == OURS


def replace_after_check(monkeypatch: pytest.MonkeyPatch, replace: Callable[[], object]) -> None:
    """Call `replace` as soon as the first thing was checked."""
    check = cache._check

    def checked(path: Path, state: os.stat_result) -> None:
        check(path, state)
        monkeypatch.setattr(cache, "_check", check)
        replace()

    monkeypatch.setattr(cache, "_check", checked)


def test_folder_replaced_after_its_check_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(0o700)

    def replace() -> None:
        folder.rename(folder.with_name("moved"))
        plant(folder, 0o644)

    replace_after_check(monkeypatch, replace)
    assert asked_in_silence() == OURS


def test_folder_replaced_after_its_check_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(0o700)
    moved = folder.with_name("moved")

    def replace() -> None:
        folder.rename(moved)
        folder.mkdir(0o777)

    with pytest.raises(FileNotFoundError):
        cache._read("nothing")
    replace_after_check(monkeypatch, replace)
    cache._store(OURS, "entry")
    assert [path.name for path in moved.iterdir()] == ["entry"]
    assert list(folder.iterdir()) == []


def test_folder_removed_while_it_is_written_is_gone_around(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(0o700)

    def make() -> bytes:
        replace_after_check(monkeypatch, lambda: shutil.rmtree(folder))
        return OURS

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.kept(b"digest", "source", ".so", b"", make) == OURS


def test_folder_that_comes_and_goes_loses_no_result(folder: Path) -> None:
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.mkdir(0o700)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for i in range(500):
            assert cache.kept(b"digest", str(i % 5), ".so", b"", lambda: OURS) == OURS
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("content", [b"", THEIRS, sound(THEIRS)[:-1], sound(THEIRS)[1:]])
def test_entry_that_is_not_whole_is_made_again(folder: Path, content: bytes) -> None:
    entry = plant(folder)
    entry.write_bytes(content)
    assert asked_in_silence() == OURS
    assert entry.read_bytes() == sound(OURS)


def test_each_compiler_has_its_own_entry_and_without_one_any_serves(folder: Path) -> None:
    def asked(maker: bytes | None, made: bytes) -> bytes:
        return cache.kept(b"digest", "source", ".so", maker, lambda: made)

    assert asked(None, OURS) == OURS
    assert not folder.exists()  # nobody could tell later who made it
    assert [asked(maker, maker) for maker in (b"one", b"two")] == [b"one", b"two"]
    assert [asked(maker, OURS) for maker in (b"one", b"two")] == [b"one", b"two"]
    assert asked(None, OURS) in (b"one", b"two")
    assert cache.kept(b"digest", "another", ".so", None, lambda: OURS) == OURS
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="chmod go-w"):
        assert asked(None, OURS) == OURS


# ------------------------------------------------------------------------- of a function that runs

FUNCTION = """
import os, sys, torch, fusedgrad
x = torch.linspace(-3, 3, 100)
y = fusedgrad.fuse(lambda x: torch.exp(x) * x)(x)
assert torch.allclose(y, torch.exp(x) * x)
"""


def run(program: str, *before: str, **environment: str) -> str:
    """What a new process says to stderr."""
    done = subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def evil(folder: Path) -> Path:
    """A shared object, and the file that it makes when it is loaded."""
    mark = folder.parent / "it ran"
    source = folder.parent / "evil.c"
    source.write_text(
        "#include <stdio.h>\n"
        f'__attribute__((constructor)) static void f(void) {{ fopen("{mark}", "w"); }}\n'
        "void block(void) {}\n"
    )
    library = source.with_suffix(".so")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return library


@pytest.mark.parametrize("trusted", [False, True])
def test_shared_object_in_a_world_writable_folder_does_not_run(folder: Path, trusted: bool) -> None:
    run(FUNCTION)
    (entry,) = folder.iterdir()
    entry.write_bytes(sound(evil(folder).read_bytes()))
    if trusted:  # that what is planted does run where the folder is the user's
        with pytest.raises(AssertionError):
            run(FUNCTION)
    else:
        folder.chmod(0o777)
        errors = run(FUNCTION)
        assert f"{folder} can be written by others" in errors
        assert f"chmod go-w {folder}" in errors
    assert (folder.parent / "it ran").exists() is trusted


def test_full_disk_loses_no_result(folder: Path) -> None:
    folder.mkdir()
    script = f'mount -t tmpfs -o size=8k,mode=700 tmpfs {folder} && "$@" && ls {folder} >&2'
    # The compiler's output is longer than the disk.
    errors = run(FUNCTION, "unshare", "--mount", "sh", "-c", script, "sh")
    assert errors == ""


def test_folder_that_nothing_may_be_executed_from_serves(folder: Path) -> None:
    folder.mkdir()
    script = f'mount -t tmpfs -o noexec,mode=700 tmpfs {folder} && "$@" && ls {folder} | wc -l >&2'
    assert run(FUNCTION, "unshare", "--mount", "sh", "-c", script, "sh").split() == ["1"]


def test_without_a_compiler_what_one_made_before_runs(folder: Path) -> None:
    assert run(FUNCTION) == ""
    assert run("import warnings; warnings.simplefilter('error')" + FUNCTION, CXX="none") == ""
    shutil.rmtree(folder)
    assert run(FUNCTION, CXX="none").count("no C++ compiler: none is not on PATH") == 1


def libraries() -> list[bytes]:
    """Compiled functions that return their own number, 0 to 7."""
    made = []
    for i in range(8):
        source = f'extern "C" int block() {{ return {i}; }}'
        made.append(compilation._compiled(("c++", "-shared", "-fPIC"), source))
    return made


def test_each_load_gives_its_own_library() -> None:
    made = libraries()
    # Descriptors are closed and their numbers come again; the loader must not take one for another.
    loaded = [compilation._loaded_from_memory(content) for content in (*made, *reversed(made))]
    assert [library.block() for library in loaded] == [*range(8), *reversed(range(8))]


def test_without_anonymous_files_it_loads_from_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert [compilation._loaded(content).block() for content in libraries()] == [*range(8)]
    with pytest.raises(compilation.CompilerError, match="was not loaded"):
        compilation._loaded(b"no shared object")


@pytest.mark.parametrize("safe", [True, False])
def test_what_nvrtc_makes_is_kept_by_the_same_rules(
    folder: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    monkeypatch.setattr(nvrtc, "_compiled", lambda source, target: OURS)
    assert nvrtc.code_of("source", "sm_90") == OURS
    (entry,) = folder.iterdir()
    entry.write_bytes(sound(THEIRS))
    if safe:
        assert nvrtc.code_of("source", "sm_90") == THEIRS
        return
    folder.chmod(0o777)
    with pytest.warns(UserWarning, match="chmod go-w"):
        assert nvrtc.code_of("source", "sm_90") == OURS


def test_untrusted_folder_costs_a_fused_function_nothing_but_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_kernels", {})
    folder.mkdir()
    folder.chmod(0o777)
    x = torch.linspace(-3, 3, 100, dtype=torch.float64, requires_grad=True)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        y = fusedgrad.fuse(lambda x: torch.exp(x) * x)(x)
        return y, *torch.autograd.grad(y.sum(), x)

    with pytest.warns(UserWarning, match="chmod go-w") as caught:
        y, gradient = both()
    assert len(caught) == 1
    assert torch.allclose(y, torch.exp(x) * x)
    assert torch.allclose(gradient, torch.exp(x) * (x + 1))
