"""Pictures of benchmarks.speed: time, and share of the floor, against size."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from benchmarks.report import conditions
from benchmarks.speed_tables import Report, Result, setting_name
from benchmarks.works import HEADLINES

COLOURS = {"fusedgrad": "#00798c", "torch": "#d1495b", "torch.compile": "#edae49"}
FLOOR_COLOUR = "#555555"
COLUMNS = 4

Panel = Callable[[Axes, Sequence[Result]], None]


def draw_times(axes: Axes, results: Sequence[Result]) -> None:
    """Medians, and the middle half of the rounds."""
    for name, colour in COLOURS.items():
        with_it = [result for result in results if name in result.seconds]
        sizes = [result.size for result in with_it]
        spreads = [result.seconds[name] for result in with_it]
        axes.plot(sizes, [s.median for s in spreads], color=colour, marker=".", label=name)
        axes.fill_between(
            sizes,
            [s.lower for s in spreads],
            [s.upper for s in spreads],
            color=colour,
            alpha=0.25,
            linewidth=0,
        )
    axes.plot(
        [result.size for result in results],
        [result.floor_fresh for result in results],
        color=FLOOR_COLOUR,
        linestyle=(0, (4, 3)),
        label="floor",
    )
    axes.set_yscale("log")
    axes.set_ylabel("seconds")


def draw_shares(axes: Axes, results: Sequence[Result]) -> None:
    """The floor's time over a contender's: all of it is the machine's limit."""
    for name, colour in COLOURS.items():
        with_it = [result for result in results if name in result.seconds]
        shares = [result.floor_fresh / result.seconds[name].median for result in with_it]
        sizes = [result.size for result in with_it]
        axes.plot(sizes, shares, color=colour, marker=".", label=name)
    axes.axhline(1, color=FLOOR_COLOUR, linestyle=(0, (4, 3)), label="floor")
    axes.set_ylim(0, 1.1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("share of the floor")


PICTURES: dict[str, Panel] = {"speed_time.png": draw_times, "speed_floor.png": draw_shares}


def draw_panels(report: Report, panel: Panel, path: Path) -> None:
    """A panel for each headline: forward+backward in float32 with all threads."""
    results = [
        r for r in report.results if (r.dtype, r.work_pass) == ("float32", "forward+backward")
    ]
    threads = max(result.threads for result in results)
    by_work = {
        work: [r for r in results if (r.work, r.threads) == (work, threads)] for work in HEADLINES
    }
    shown = {work: of_work for work, of_work in by_work.items() if of_work}
    rows = -(-len(shown) // COLUMNS)
    figure, grid = plt.subplots(
        rows, COLUMNS, figsize=(4 * COLUMNS, 3 * rows + 0.6), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, (work, of_work) in zip(grid.flat, shown.items(), strict=False):
        panel(axes, of_work)
        axes.set_xscale("log", base=2)
        axes.set_title(work, loc="left", size=11)
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    setting = setting_name(report.machine, "float32", threads)
    figure.suptitle(
        f"Forward + backward, {setting}, against the number of elements\n"
        f"{conditions(report.machine)}",
        size=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw(report: Report, folder: Path) -> list[Path]:
    if not any(result.work in HEADLINES for result in report.results):
        return []
    paths = [folder / name for name in PICTURES]
    for path in paths:
        draw_panels(report, PICTURES[path.name], path)
    return paths
