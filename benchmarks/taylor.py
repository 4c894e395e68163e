"""`python -m benchmarks.taylor`: Taylor mode beside nested differentiation, forward and backward.

A tanh network of 1, 32, 32, 32 and 1 units, its derivatives of order 1 to 6 at 200 and 5,000
points, and the gradient of the mean of the highest squared; and the Laplacian of such a network of
2, 10 and 100 inputs at 200 points. All contenders take turns in one process; each ratio is the
median of the rounds'. Where jet-for-pytorch is installed (it needs Python 3.12), it is measured
beside fusedgrad alone. --write puts the tables between markers of docs/taylor-mode.md, those beside
jet-for-pytorch between others, and draws docs/taylor.png.

Peak memory is that of a process of its own above what it had after its imports and a first call of
two points. What takes more than a second is measured once.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, cast

import torch
from torch import Tensor, nn

import fusedgrad
from benchmarks.report import DOCS, markdown, write_between_markers
from benchmarks.timing import cpu_seconds, interleave, ratios

Call = Callable[[], Tensor]
OURS, THEIRS = "fusedgrad", "jet-for-pytorch"
POINTS = (200, 5000)
ORDERS = range(1, 7)
DIMENSIONS = (2, 10, 100)
SLOWEST = 1.0  # seconds of a step; a slower one is taken once
ROOT = Path(__file__).resolve().parent.parent
_fused_tanh = fusedgrad.fuse(lambda x: fusedgrad.tanh(x))


class _Fused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _fused_tanh(x)  # type: ignore[no-any-return]


def network(inputs: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = (inputs, 32, 32, 32, 1)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


# -------------------------------------------------------- the highest derivative, as a function


def _nested(model: nn.Module, x: Tensor, order: int) -> Tensor:
    x = x.detach().requires_grad_()
    u = model(x)
    for _ in range(order):
        (u,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return u  # type: ignore[no-any-return]


def _nested_jvp(model: nn.Module, x: Tensor, order: int) -> Tensor:
    one = torch.ones_like(x)

    def slope(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.func.jvp(function, (x,), (one,))[1]

    function: Callable[[Tensor], Tensor] = model
    for _ in range(order):
        function = slope(function)
    return function(x)


def _ours(model: nn.Module, x: Tensor, order: int) -> Tensor:
    return fusedgrad.derivatives(model, x, torch.ones_like(x), order)[-1]


def _theirs(model: nn.Module, x: Tensor, order: int) -> Tensor:
    # Traced once for a network and a shape, which is not measured
    transformed = _transformed(model, x, False)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return transformed((x, one, *[zero] * (order - 1)))[-1]  # type: ignore[no-any-return]


_traced: dict[Any, Any] = {}


def _transformed(model: nn.Module, x: Tensor, collapsed: bool) -> Any:
    key = (id(model), x.shape, collapsed)
    if key not in _traced:
        from jet import jet

        # The model is kept, so that its identity is not another's.
        _traced[key] = model, jet(model, (torch.zeros_like(x),), collapsed=collapsed)
    return _traced[key][1]


DERIVATIVES: dict[str, tuple[Callable[..., Tensor], Callable[[], nn.Module]]] = {
    OURS: (_ours, nn.Tanh),
    "nested autograd": (_nested, nn.Tanh),
    "nested fused functions": (_nested, _Fused),
    "nested torch.func.jvp": (_nested_jvp, nn.Tanh),
    THEIRS: (_theirs, nn.Tanh),
}


# ----------------------------------------------------------------------------------- the Laplacian


def _laplacian(model: nn.Module, x: Tensor) -> Tensor:
    return fusedgrad.laplacian(model)(x).laplacian


def _trace_of_hessian(model: nn.Module, x: Tensor) -> Tensor:
    hessian = torch.func.vmap(torch.func.hessian(lambda p: model(p)[0]))(x)
    return hessian.diagonal(dim1=-2, dim2=-1).sum(-1)  # type: ignore[no-any-return]


def _jvp_of_jvp(model: nn.Module, x: Tensor) -> Tensor:
    def second(v: Tensor) -> Tensor:
        v = v.expand_as(x)
        result = torch.func.jvp(lambda x: torch.func.jvp(model, (x,), (v,))[1], (x,), (v,))[1]
        return cast(Tensor, result)

    return torch.vmap(second)(torch.eye(x.shape[-1])).sum(0)


def _their_laplacian(model: nn.Module, x: Tensor) -> Tensor:
    transformed = _transformed(model, x, True)
    directions = torch.eye(x.shape[-1])[:, None].expand(-1, *x.shape)
    return transformed((x, directions, torch.zeros_like(x)))[-1]  # type: ignore[no-any-return]


LAPLACIANS: dict[str, Callable[..., Tensor]] = {
    OURS: _laplacian,
    "hessian's trace": _trace_of_hessian,
    "vmap of jvp of jvp": _jvp_of_jvp,
    THEIRS: _their_laplacian,
}


def _trained(highest: Callable[..., Tensor], model: nn.Module, *arguments: Any) -> Call:
    def step() -> Tensor:
        model.zero_grad()
        result = highest(model, *arguments)
        torch.autograd.backward((result**2).mean())
        return result.detach()

    return step


def derivative_calls(points: int, order: int) -> dict[str, Call]:
    x = torch.linspace(-1, 1, points)[:, None]
    return {
        name: _trained(highest, network(1, activation), x, order)
        for name, (highest, activation) in DERIVATIVES.items()
        if _is_there(name)
    }


def laplacian_calls(dimension: int) -> dict[str, Call]:
    torch.manual_seed(1)
    x = torch.randn(200, dimension)
    return {
        name: _trained(operator, network(dimension), x)
        for name, operator in LAPLACIANS.items()
        if _is_there(name)
    }


def _is_there(name: str) -> bool:
    if find_spec("jet") is None:
        return name != THEIRS
    return name in (OURS, THEIRS)


# ---------------------------------------------------------------------------------------- measuring


def measured(calls: Mapping[str, Call], budget: float) -> dict[str, tuple[float, float]]:
    """For each the milliseconds, and how many times ours."""
    results: dict[str, Tensor] = {}
    once: dict[str, float] = {}
    for name, call in calls.items():
        call()
        start = process_time()
        results[name] = call()
        once[name] = process_time() - start
    for name, result in results.items():
        expected = results[OURS].reshape(result.shape)
        scale = expected.abs().max()
        torch.testing.assert_close(result / scale, expected / scale, rtol=1e-3, atol=1e-3, msg=name)
    repeated = {n: c for n, c in calls.items() if once[n] < SLOWEST}
    clock = seconds_of_this_process if torch.get_num_threads() == 1 else cpu_seconds
    samples = interleave(repeated, budget=budget, clock=clock)
    ours = median(samples[OURS])
    return {
        name: (1e3 * median(samples[name]), median(ratios(samples, name, OURS)))
        if name in samples
        else (1e3 * once[name], once[name] / ours)
        for name in calls
    }


def seconds_of_this_process(run: Callable[[], object]) -> float:
    """Of its processor, which others do not change that take turns with it."""
    start = process_time()
    run()
    return process_time() - start


def peak_megabytes(kind: str, size: int, order: int, name: str) -> float:
    """Of one step in a new process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.taylor",
        "--peak",
        kind,
        str(size),
        str(order),
        name,
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def _peak(kind: str, size: str, order: str, name: str) -> None:
    def calls(points: int) -> dict[str, Call]:
        if kind == "derivatives":
            return derivative_calls(points, int(order))
        return laplacian_calls(points)

    torch.set_num_threads(1)
    calls(2)[name]()
    call = calls(int(size))[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _resident_peak()
    call()
    print(_resident_peak() - before)


def _resident_peak() -> float:
    """In megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def tables(
    budget: float, memory: bool, orders: Sequence[int], of_threads: Sequence[int] = (1, 2)
) -> tuple[str, Curves]:
    """All of them, in Markdown, and the times of the first number of threads."""
    parts: list[str] = []
    curves: Curves = {}
    threads_before = torch.get_num_threads()
    for threads in of_threads:
        torch.set_num_threads(threads)
        for points in POINTS:
            rows: dict[str, list[str]] = {}
            for order in orders:
                found = measured(derivative_calls(points, order), budget)
                for name in [n for n in DERIVATIVES if _is_there(n)]:
                    time, ratio = found[name]
                    rows.setdefault(name, [name]).append(f"{time:.2f} ({ratio:.1f})")
                    if threads == of_threads[0]:
                        curves.setdefault(points, {}).setdefault(name, {})[order] = time
            if memory and threads == 1:
                for name, row in rows.items():
                    row.append(f"{peak_megabytes('derivatives', points, 4, name):.1f}")
            header = [f"{points:,} points, {threads} thread{'s' * (threads > 1)}"]
            header += [f"order {order}" for order in orders]
            if memory and threads == 1:
                header.append("MB, order 4")
            parts.append(markdown(header, list(rows.values())))
        rows = {}
        for dimension in DIMENSIONS:
            found = measured(laplacian_calls(dimension), budget)
            for name, (time, ratio) in found.items():
                rows.setdefault(name, [name]).append(f"{time:.2f} ({ratio:.1f})")
        header = [f"Laplacian, {threads} thread{'s' * (threads > 1)}"]
        header += [f"{dimension} dimensions" for dimension in DIMENSIONS]
        if memory and threads == 1:
            for name, row in rows.items():
                row.append(f"{peak_megabytes('laplacian', 100, 2, name):.1f}")
            header.append("MB, 100 dimensions")
        parts.append(markdown(header, list(rows.values())))
    torch.set_num_threads(threads_before)
    return "\n\n".join(parts), curves


# By the number of points and the contender, milliseconds by order
Curves = dict[int, dict[str, dict[int, float]]]


def draw(curves: Curves, path: Path) -> None:
    """Time over order."""
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(1, len(curves), figsize=(9, 3.6), layout="constrained")
    for axes, (points, of_points) in zip(grid, curves.items(), strict=True):
        for name, by_order in of_points.items():
            width = 2.5 if name == OURS else 1.2
            axes.plot([*by_order], [*by_order.values()], marker=".", label=name, linewidth=width)
        axes.set(title=f"{points:,} points", xlabel="order of the derivative", yscale="log")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("ms, forward and backward")
    grid[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.taylor")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="orders 2 and 4, half a second each")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a row of rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--orders", type=int, nargs="+", default=tuple(ORDERS))
    parser.add_argument("--memory", action="store_true", help="peaks too")
    parser.add_argument("--write", action="store_true", help="into docs/taylor-mode.md")
    options = parser.parse_args(arguments)
    if options.peak:
        return _peak(*options.peak)
    if options.quick:
        text, curves = tables(0.5, False, (2, 4))
    else:
        text, curves = tables(options.budget, options.memory, options.orders, options.threads)
    about = (
        "Milliseconds of a forward and a backward pass (with one thread, of the processor), and in "
        f"parentheses how many times fusedgrad's. Python {sys.version.split()[0]}, torch "
        f"{torch.__version__}."
    )
    if options.write:
        is_theirs = _is_there(THEIRS)
        marker = "taylor-theirs" if is_theirs else "taylor"
        write_between_markers(marker, f"{about}\n\n{text}", DOCS / "taylor-mode.md")
        if not is_theirs:
            draw(curves, DOCS / "taylor.png")
    else:
        print(f"{about}\n\n{text}")
    return None


if __name__ == "__main__":
    main()
