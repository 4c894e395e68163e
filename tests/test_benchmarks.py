"""The benchmark programs: what they count, what they choose, what they write."""

import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    accuracy,
    accuracy_errors,
    accuracy_libraries,
    accuracy_picture,
    comparison,
    first_call,
    floor,
    gpu,
    memory,
    report,
    speed,
    speed_tables,
    timing,
    works,
)
from benchmarks.contenders import FUSEDGRAD, TORCH
from benchmarks.floor import Floor
from benchmarks.timing import Spread
from benchmarks.works import BY_NAME, HEADLINES, PASSES, WORKS, Traffic
from tools import gpu_build


@pytest.fixture(autouse=True)
def _restored_thread_count() -> Iterator[None]:
    """The benchmarks set the number of threads; other tests shall not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


ERRORS = accuracy_errors.Errors(8, 0.5)


def spread(median: float) -> Spread:
    return Spread(median, 0.9 * median, 1.1 * median, 0.8 * median)


def result(
    work: str, size: int, *, compiled: bool = True, threads: int = 2, ours: float = 2e-3
) -> speed_tables.Result:
    seconds = {"fusedgrad": spread(ours), "torch": spread(8e-3)}
    if compiled:
        seconds["torch.compile"] = spread(5e-3)
    return speed_tables.Result(
        work=work,
        work_pass="forward+backward",
        dtype="float32",
        threads=threads,
        size=size,
        seconds=seconds,
        times_faster={n: spread(s.median / ours) for n, s in seconds.items() if n != "fusedgrad"},
        floor_existing=1e-3,
        floor_fresh=1.6e-3,
        moving=1.5e-3,
        bytes_moved=20 * size,
    )


def a_report() -> speed_tables.Report:
    sizes = (1, 1000, 2**20, 2**24)
    results = [result("sigmoid", size, compiled=size > 1000) for size in sizes]
    results += [result("mish", 2**24), result("sigmoid", 2**24, threads=1, ours=1e-3)]
    return speed_tables.Report(
        machine=report.machine(),
        results=results,
        memory=[speed_tables.Memory("sigmoid", 2**20, 2, {"fusedgrad": 2.0, "torch": 7.25})],
        first_calls=[
            first_call.FirstCall(works.FUNCTIONS[0].name, "fusedgrad", 0.25, 0.01),
            first_call.FirstCall(works.FUNCTIONS[0].name, "torch.compile", 12.0, 3.0),
        ],
    )


# ------------------------------------------------------------------------------------------ timing


def test_spread_is_quartiles_and_the_least() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0, 1.0)


def test_ratios_compare_within_a_round() -> None:
    assert timing.ratios({"a": [2.0, 9.0], "b": [1.0, 3.0]}, "a", "b") == [2.0, 3.0]


def test_interleave_repeats_short_calls() -> None:
    order: list[str] = []
    durations = {"short": 1e-4, "long": 1.0}

    def clock(run: timing.Call) -> float:
        before = len(order)
        run()
        return sum(durations[name] for name in order[before:])

    def called(name: str) -> timing.Call:
        return lambda: order.append(name)

    samples = timing.interleave(
        {name: called(name) for name in durations}, budget=0, fewest_rounds=3, clock=clock
    )
    assert samples["short"] == pytest.approx([1e-4] * 3)
    assert samples["long"] == pytest.approx([1.0] * 3)
    for start in range(4, len(order), 11):
        assert sorted(order[start : start + 11]) == ["long", *["short"] * 10]


def test_interleave_favours_no_place_and_no_predecessor() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abcd"}

    def clock(run: timing.Call) -> float:
        run()
        return 1.0

    timing.interleave(calls, budget=0, fewest_rounds=48, most_rounds=48, clock=clock)
    timed = order[2 * len(calls) :]
    rounds = [timed[start : start + len(calls)] for start in range(0, len(timed), len(calls))]
    assert all(sorted(each) == list(calls) for each in rounds)
    places = Counter((name, place) for each in rounds for place, name in enumerate(each))
    pairs = Counter(itertools.pairwise(timed))
    itself = [pairs[name, name] for name in calls]
    others = [pairs[pair] for pair in itertools.permutations(calls, 2)]
    assert len(places) == 16
    assert max(places.values()) < 3 * min(places.values())
    assert max(others) < 4 * min(others)
    assert max(itself) < min(others)


def test_rotating_keeps_as_many_results_as_there_are_other_operands() -> None:
    alive: set[int] = set()

    class Tracked:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)

        def __del__(self) -> None:
            alive.discard(self.number)

    def made(number: int) -> Callable[[], Tracked]:
        return lambda: Tracked(number)

    call = timing.Rotating([made(number) for number in range(3)])
    seen = []
    for _ in range(5):
        call()
        seen.append(sorted(alive))
    assert seen == [[0], [0, 1], [1, 2], [0, 2], [0, 1]]
    timing.Rotating([made(7)])()
    assert 7 not in alive


def test_cuda_clock_reads_the_events_around_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("record")

        def synchronize(self) -> None:
            log.append("synchronize event")

        def elapsed_time(self, end: "Event") -> float:
            assert end is not self
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    assert timing.cuda_seconds(lambda: log.append("call")) == 2.5e-3
    assert log == ["synchronize", "record", "call", "record", "synchronize event"]


# ------------------------------------------------------------------------------------- the floor


@pytest.mark.parametrize(
    ("name", "work_pass", "traffic"),
    [
        ("sigmoid", "forward", Traffic(1, 1)),
        ("sigmoid", "backward", Traffic(2, 1)),
        ("sigmoid", "forward+backward", Traffic(3, 2)),
        ("pow(x, y)", "backward", Traffic(3, 2)),
        ("snake_beta, channels", "backward", Traffic(2, 1)),
        ("bce_with_logits, mean", "forward", Traffic(2, 0)),
        ("bce_with_logits, mean", "forward+backward", Traffic(4, 1)),
        ("bce_with_logits, none", "forward+backward", Traffic(5, 2)),
    ],
)
def test_traffic(name: str, work_pass: works.Pass, traffic: Traffic) -> None:
    assert BY_NAME[name].traffic(work_pass) == traffic


def test_floor_is_copies_and_mapping_but_no_less_than_an_operator() -> None:
    seconds = {"copy": 5.0, "copy of one": 1.0, "fresh copy": 9.0, "fresh copy of one": 2.0}
    found = Floor.of(seconds | {"empty operator": 1.5})
    assert found == Floor(copying=4.0, mapping=3.0, operator=1.5)
    assert found.existing_outputs(Traffic(3, 2)) == 10.0
    assert found.fresh_outputs(Traffic(3, 2)) == 16.0
    noisy = Floor.of(dict.fromkeys(seconds, 1.0) | {"empty operator": 1.5, "copy": 0.9})
    assert noisy.existing_outputs(Traffic(3, 2)) == noisy.fresh_outputs(Traffic(3, 2)) == 1.5


@pytest.mark.parametrize("work_pass", PASSES)
def test_reference_calls_run(work_pass: works.Pass) -> None:
    x = torch.rand(floor.HUGE_PAGE)  # so large that huge pages are asked for
    for call in floor.reference_calls(work_pass, x).values():
        call()
    assert torch.equal(floor.fresh_copy(x), x)


def test_peak_bandwidth_is_that_of_the_data_sheet() -> None:
    h100 = SimpleNamespace(memory_clock_rate=2_619_000, memory_bus_width=5120)
    assert report.peak_bandwidth(h100) == pytest.approx(3.35e12, rel=1e-3)


def test_operands_rotate_until_they_exceed_the_devices_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    properties = SimpleNamespace(L2_cache_size=50 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    sigmoid = BY_NAME["sigmoid"]
    for size in (2**18, 2**20, 2**24):
        copies = speed.copies_of(sigmoid, torch.float32, size, "cuda")
        others = (copies - 1) * 2 * 4 * size
        assert 2 * properties.L2_cache_size <= others + 2 * 4 * size
        assert copies <= 102
    assert speed.copies_of(sigmoid, torch.float32, 1, "cuda") == speed.MOST_COPIES
    assert speed.copies_of(sigmoid, torch.float32, 1, "cpu") == 1


def test_rotated_operands_are_equal_and_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "copies_of", lambda *arguments: 3)
    operands = speed.operands_of(BY_NAME["pow(x, y)"], torch.bfloat16, 8, "cpu")
    for copies in zip(*operands, strict=True):
        assert all(torch.equal(copy, copies[0]) for copy in copies)
        assert len({copy.data_ptr() for copy in copies}) == 3


def test_prepared_calls_rotate_over_their_operands() -> None:
    seen: list[int] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.data_ptr())
        return x * 2

    operands = [[torch.rand(8)] for _ in range(3)]
    call = speed.prepare(BY_NAME["sigmoid"], "forward+backward", function, operands)
    for _ in range(4):
        call()
    pointers = [x.data_ptr() for (x,) in operands]
    assert seen == [*pointers, pointers[0]]


def test_peak_of_a_device_is_what_it_says_beyond_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: log.append(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100 + len(log))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 182 + 10 * len(log))
    assert memory.peak_extra(lambda: log.append("call"), "cuda") == 182 + 50 - 102
    assert log == ["call", "synchronize", "reset_peak_memory_stats", "call", "synchronize"]


# ------------------------------------------------------------------------------------- the choice


def chosen(*arguments: str) -> list[speed.Cell]:
    return speed.cells(speed.parse(arguments))


def test_every_work_and_pass_runs_in_every_dtype_and_in_float32_at_every_size() -> None:
    every = {(c.work.name, c.work_pass, c.dtype) for c in chosen()}
    assert every == {(w.name, p, d) for w in WORKS for p in PASSES for d in speed.DTYPES}
    narrow = {(c.work.name, c.work_pass, c.size) for c in chosen() if c.dtype == "float32"}
    assert narrow == {(w.name, p, s) for w in WORKS for p in PASSES for s in speed.SIZES}
    assert {c.threads for c in chosen()} == set(speed.THREADS)


def test_operands_of_a_dtype_and_size_are_made_once() -> None:
    keys = [(c.work.name, c.dtype, c.size) for c in chosen()]
    changes = sum(before != after for before, after in itertools.pairwise(keys))
    assert changes == len(set(keys)) - 1


def test_quick_compiles_one_function_once() -> None:
    assert sum(speed.is_compiled(cell, quick=True) for cell in chosen("--quick")) == 1
    compiled = [cell for cell in chosen() if speed.is_compiled(cell, quick=False)]
    assert {cell.work.name for cell in compiled} == {work.name for work in WORKS}


def test_headlines_are_works() -> None:
    assert set(HEADLINES) <= set(BY_NAME)
    assert len(BY_NAME) == len(WORKS)


@pytest.mark.parametrize(
    "arguments", [["--only", "no such work"], ["--write", "--device", "cuda"], ["--device", "tpu"]]
)
def test_bad_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- results


@pytest.mark.slow
def test_speed_runs_and_its_file_makes_the_same_tables_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_call, "LIBRARIES", ())  # its processes take seconds
    path = tmp_path / "speed.json"
    speed.main(["--only", "tanh(x + ", "--sizes", "1", "4096", "--json", str(path)])
    printed = capsys.readouterr().out
    data = json.loads(path.read_text())
    assert data["machine"]["torch"] == torch.__version__
    assert len(data["results"]) == 2 * len(speed.THREADS) * len(PASSES)
    for each in data["results"]:
        assert each["seconds"].keys() == {"fusedgrad", "torch"}
        assert 0 < each["seconds"]["fusedgrad"]["least"] <= each["seconds"]["fusedgrad"]["median"]
        assert 0 < each["floor_existing"] <= each["floor_fresh"]
    assert (tmp_path / "speed_time.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "speed_floor.png").read_bytes().startswith(b"\x89PNG")
    speed.main(["--from", str(path), "--json", str(tmp_path / "unused.json")])
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "unused.json").exists()
    # Of works that are no headline there is no picture.
    for each in data["results"]:
        each["work"] = "snake_beta, channels"
    path.write_text(json.dumps(data))
    speed.main(["--from", str(path)])
    assert "pictures: \n" in capsys.readouterr().out


def test_write_fills_readme_and_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (speed, accuracy):
        monkeypatch.setattr(module, "README", tmp_path / "README.md")
        monkeypatch.setattr(module, "DOCS", tmp_path)
    measurements = tmp_path / "speed.json"
    measurements.write_text(json.dumps(a_report().as_json()))
    speed.main(["--from", str(measurements), "--write"])
    readme = (tmp_path / "README.md").read_text()
    assert (
        readme
        == f"<!-- speed:begin -->\n{speed_tables.short_table(a_report())}\n<!-- speed:end -->\n"
    )
    assert "### float32, 2 threads" in (tmp_path / "speed.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"speed_time.png", "speed_floor.png"}
    monkeypatch.setattr(accuracy_picture, "INTERVALS", 3)
    rows = [accuracy.Row("float32", "tanh", "tanh", dict.fromkeys(("fusedgrad", "torch"), ERRORS))]
    found = accuracy.Report({**report.machine(), "others": {}}, 1, 8, rows)
    measurements.write_text(json.dumps(dataclasses.asdict(found)))
    accuracy.main(["--from", str(measurements), "--write"])
    readme += f"\n<!-- accuracy:begin -->\n{accuracy.short_table(found)}\n<!-- accuracy:end -->\n"
    assert (tmp_path / "README.md").read_text() == readme
    page = (tmp_path / "accuracy.md").read_text()
    assert accuracy.long_tables(found) in page
    assert "(accuracy.png)" in page
    assert (tmp_path / "accuracy.png").exists()


def test_what_a_page_prints(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text\n```python\nx = 6\nprint(7 * x)\n```\nMore\n```python\n1 / 0\n```\n")
    assert speed.printed_by(page) == "```text\n42\n```"
    page.write_text("Text\n")
    with pytest.raises(ValueError, match="no block of Python"):
        speed.printed_by(page)
    page.write_text("```python\n1 / 0\n```\n")
    with pytest.raises(subprocess.CalledProcessError):
        speed.printed_by(page)


def test_interrupted_run_leaves_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(options: object, partial: speed_tables.Report) -> Iterator[None]:
        partial.results.append(result("sigmoid", 1000))
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "run", interrupted)
    path = tmp_path / "speed.json"
    with pytest.raises(KeyboardInterrupt):
        speed.main(["--json", str(path)])
    (kept,) = speed_tables.Report.from_json(json.loads(path.read_text())).results
    assert kept == result("sigmoid", 1000)


def test_report_survives_json() -> None:
    before = a_report()
    assert speed_tables.Report.from_json(json.loads(json.dumps(before.as_json()))) == before


def test_short_table_has_headlines_with_all_threads() -> None:
    rows = [line.split("|")[1:-1] for line in speed_tables.short_table(a_report()).splitlines()]
    heading, _, sigmoid, mish = ([cell.strip() for cell in row] for row in rows if row)
    assert heading[1:] == [
        *("torch, 1,000", "torch, 2^20", "torch, 2^24"),
        *("torch.compile, 2^20", "torch.compile, 2^24"),
        *("time / fresh-page floor, 2^24", "memory (and torch's)"),
    ]
    assert sigmoid == ["sigmoid", "4.00", "4.00", "4.00", "2.50", "2.50", "1.25", "2 (7.25)"]
    assert mish == ["mish", "–", "–", "4.00", "–", "2.50", "1.25", "–"]
    text = speed_tables.short_table(a_report())
    assert "250 ms (10 ms from the cache); torch.compile 12 s (3 s); imports not counted." in text
    assert "into memory that exists, these times are 2.00 to 2.00" in text


def test_short_table_without_a_headline_says_nothing_of_floors() -> None:
    found = a_report()
    found.results = [dataclasses.replace(r, work="snake_beta, channels") for r in found.results]
    text = speed_tables.short_table(found)
    assert "floor" not in text.split("\n\n")[1]
    assert "snake" not in text


def test_tables_name_every_result_in_which_eager_is_faster() -> None:
    found = a_report()
    counted = "of 5 measured cells of operations and fused functions"
    none = f"torch eager is faster in 0 {counted}."
    assert none in speed_tables.short_table(found)
    assert none in speed_tables.long_tables(found)
    slow = [result("sigmoid", size, ours=1e-2) for size in (2**16, 2**20)]
    slow.append(dataclasses.replace(result("tanh", 1, ours=1.6e-2), work_pass="backward"))
    slow.append(dataclasses.replace(result("tanh", 1, ours=8.1e-3, threads=1), dtype="float16"))
    found.results += [*slow, result("mish", 1, ours=1e-2)]
    some = f"torch eager is faster in 4 {counted.replace('5', '9')}, its time at least 0.50 of "
    assert some in speed_tables.short_table(found)
    text = speed_tables.long_tables(found)
    assert f"{some}fusedgrad's." in text
    table = next(part for part in text.split("\n\n") if "most of it is" in part)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    # A call is what one element takes: 2 ms of sigmoid, all of tanh.
    backward, both = "backward, float32, 2 threads", "forward+backward, float32, 2 threads"
    one_thread = "forward+backward, float16, 1 thread"
    sigmoid, tanh = ("10 ms", "2 ms", "1.5 ms", "6.5 ms"), ("8.1 ms", "0 µs", "1.5 ms", "6.6 ms")
    assert rows == [
        [backward, "tanh", "call", "1", "0.50 (0.45 to 0.55)", "16 ms", "16 ms", "1.5 ms", "0 µs"],
        *(
            [both, "sigmoid", "computing", size, "0.80 (0.72 to 0.88)", *sigmoid]
            for size in ("2^16", "2^20")
        ),
        [one_thread, "tanh", "computing", "1", "0.99 (0.89 to 1.09)", *tanh],
    ]


def test_long_tables_have_a_section_for_each_setting() -> None:
    text = speed_tables.long_tables(a_report())
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert headings == [
        *(
            "### float32, 2 threads",
            "### float32, 1 thread",
            "### Where eager is faster",
            "### Memory",
            "### First call",
        )
    ]
    assert "2 ms, 4.00" in text
    assert "1 ms, 8.00" in text
    assert text.count("time / fresh-page floor, 2^24 | time / copy floor, 2^24 |") == 2
    assert "| 1.25 | 2.00 |" in re.sub(" +", " ", text)
    assert "Imports are not counted, those of torch.compile's own modules included." in text


def test_device_tables_show_the_share_of_peak_bandwidth() -> None:
    on_device = a_report()
    on_device.machine |= {"device": "H100", "peak bandwidth": 20 * 2**24 / 2e-3 * 2}
    text = speed_tables.long_tables(on_device)
    assert " 50% |" in text
    assert "### float32\n" in text
    assert "H100; " in speed_tables.short_table(on_device)


def test_full_table_has_every_result_with_its_spread() -> None:
    lines = speed_tables.full_table(a_report()).splitlines()
    assert len(lines) == 2 + 6
    assert "| fresh-page floor | copy floor |" in lines[0]
    assert "4.00 (3.60 to 4.40)" in lines[2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.234e-6, "1.23 µs"),
        (999.4e-6, "999 µs"),
        (1e-3, "1 ms"),
        (0.1234, "123 ms"),
        (12.34, "12.3 s"),
        (1234.0, "1234 s"),
    ],
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert speed_tables.time_text(seconds) == text


def test_table_is_written_between_its_markers_only(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter\n")
    report.write_between_markers("speed", "new", readme)
    expected = "before\n<!-- speed:begin -->\nnew\n<!-- speed:end -->\nafter\n"
    assert readme.read_text() == expected
    report.write_between_markers("accuracy", "more", readme)
    expected += "\n<!-- accuracy:begin -->\nmore\n<!-- accuracy:end -->\n"
    assert readme.read_text() == expected
    report.write_between_markers("speed", "new", tmp_path / "speed.md")
    expected = "<!-- speed:begin -->\nnew\n<!-- speed:end -->\n"
    assert (tmp_path / "speed.md").read_text() == expected
    readme.write_text("<!-- speed:begin -->\n")
    with pytest.raises(ValueError, match="speed:end"):
        report.write_between_markers("speed", "new", readme)


def test_first_call_uses_the_caches_it_is_given(tmp_path: Path) -> None:
    def entries() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "fusedgrad").iterdir()}

    name = works.FUNCTIONS[0].name
    assert first_call.in_new_process(name, "fusedgrad", "cpu", tmp_path) > 0
    compiled = entries()
    assert compiled
    assert first_call.in_new_process(name, "fusedgrad", "cpu", tmp_path) > 0
    assert entries() == compiled


def test_gpu_refuses_where_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert gpu.main() == 1
    assert "nothing was run" in capsys.readouterr().out


def rehearsed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str
) -> tuple[int, dict[str, dict[str, object]], str]:
    """The exit status and the report of parts that are these programs."""
    commands = {name: [sys.executable, "-c", program] for name, program in programs.items()}
    monkeypatch.setattr(gpu, "commands", lambda rehearse: commands)
    monkeypatch.setattr(gpu, "SECONDS", dict.fromkeys(programs, 2.0))
    status = gpu.measure(SimpleNamespace(rehearse=True, results=folder))  # type: ignore[arg-type]
    path = folder / "emulated-device.md"
    return status, json.loads(path.with_suffix(".json").read_text())["parts"], path.read_text()


def test_a_gpus_report_keeps_what_a_part_that_is_stopped_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = "print('{\"copy, GB/s\": 4000}', flush=True)"
    status, parts, page = rehearsed(
        tmp_path,
        monkeypatch,
        Speed=f"import time; {row}; time.sleep(60)",
        Checks="raise SystemExit('a bit differs')",
    )
    assert status == 1
    assert parts["Speed"]["verdict"] == "stopped after 2 s"
    assert parts["Speed"]["rows"] == [{"copy, GB/s": 4000}]
    assert parts["Checks"]["verdict"] == "failed with exit status 1"
    assert parts["Checks"]["text"] == "a bit differs"
    assert "| copy, GB/s |\n| --- |\n| 4000 |" in page
    assert "a bit differs" in page
    assert "Not run" not in page


def test_a_gpus_report_is_written_after_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "emulated-device.md"
    second = f"print('\\n'.join('so far ' + l for l in open({str(page)!r}).read().splitlines()))"
    _, parts, _ = rehearsed(tmp_path, monkeypatch, Checks="print('bits')", Tests=second)
    assert "so far bits" in str(parts["Tests"]["text"])
    assert "so far Not run: Tests." in str(parts["Tests"]["text"])


def test_a_gpus_report_counts_tests_and_has_their_messages(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import pytest, time\n"
        "@pytest.mark.parametrize('device', ['cuda'])\n"
        "@pytest.mark.parametrize('n', range(5))\n"
        "def test(device, n):\n"
        "    if n == 3: pytest.skip()\n"
        "    if n == 4: time.sleep(60)\n"
        "    assert n < 2, 'a bit differs'\n"
    )
    part = gpu.tests([sys.executable, *gpu.PYTEST, str(test)], 6, os.environ)
    counts = [part[name] for name in ("passed", "failed", "error", "skipped")]
    assert counts == [2, 1, 0, 1]
    assert part["verdict"] == "stopped after 6 s"
    assert "FAILED" in part["text"]
    assert "AssertionError: a bit differs" in part["text"]
    assert "test[0-cuda] PASSED" not in part["text"]


def test_a_gpus_report_takes_eight_minutes_at_most() -> None:
    parts = {name: seconds for name, seconds in gpu.SECONDS.items() if name != "Build"}
    start = 20  # what torch's import and nvidia-smi may take
    assert start + sum(seconds + gpu.GRACE for seconds in parts.values()) <= 8 * 60


@pytest.mark.slow
def test_a_gpus_report_is_rehearsed_without_a_network(tmp_path: Path) -> None:
    rehearse = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--results", str(tmp_path)]
    alone = ["unshare", "--map-root-user", "--net"]
    done = subprocess.run(
        [*alone, *rehearse], cwd=first_call.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "emulated-device.json").read_text())["parts"]
    assert list(parts) == ["Checks", "Tests", "Speed", "Bits"]
    assert all(part["verdict"] == "passed" for part in parts.values())
    assert {row["dtype"] for row in parts["Checks"]["rows"]} == set(speed.DTYPES)
    assert parts["Tests"]["passed"] > 1
    assert [row["work"] for row in parts["Speed"]["rows"][1:]] == [*HEADLINES, *HEADLINES]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("part", ["Tests", "Bits", "compute-sanitizer"])
def test_gpu_runs_tests_of_the_device_and_no_others(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.shutil.which", lambda name: name)
    command = gpu.commands(rehearse=False)[part][1:]
    if part == "compute-sanitizer":
        command = command[command.index(sys.executable) + 1 :]
    listed = subprocess.run(
        [sys.executable, *command, "--collect-only", "-qq"],
        cwd=first_call.ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    chosen = [line for line in listed.splitlines() if "::" in line]
    assert all("[cuda" in line for line in chosen)
    files = {"Tests": gpu.FILES, "Bits": (gpu.BITS,), "compute-sanitizer": gpu.KERNELS}[part]
    assert {line.split("::")[0] for line in chosen} == set(files)


def test_a_build_is_taken_along_if_it_is_of_this_source_torch_python_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LIB", tmp_path)
    assert not gpu.carried("9.0")
    note = {**gpu.made_of(), "architectures": "8.0;9.0+PTX"}
    (tmp_path / "made-of.json").write_text(json.dumps(note))
    assert gpu.carried("9.0")
    assert gpu.carried("8.0")
    assert not gpu.carried("12.0")
    assert gpu.carried(None)
    for name in ("torch", "python", "source"):
        (tmp_path / "made-of.json").write_text(json.dumps({**note, name: "another"}))
        assert not gpu.carried("9.0"), name


def test_a_build_to_carry_is_made_by_a_python_that_has_such_a_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, torch_version in (("other", "2.11.0+cpu"), ("right", "2.11.0+cu130")):
        own = f"echo 3.12; echo {torch_version}"
        program = tmp_path / name / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.write_text(
            f"#!/bin/sh\ncase $1 in -c) {own};; *) echo {name} $CUDA_HOME $@;; esac\n"
        )
        program.chmod(0o755)
    monkeypatch.setattr(gpu_build, "VENV", tmp_path / "right")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    arguments = ["--python-version", "3.12", "--arch", "9.0", "--python"]
    arguments += [str(tmp_path / "other" / "bin" / "python"), "--torch"]
    monkeypatch.setattr("sys.argv", ["gpu_build", *arguments, "2.11.0+cu130"])
    assert gpu_build.main() == 0
    said = f"right {gpu_build.TOOLKIT} -m benchmarks.gpu --build 9.0\n"
    assert capfd.readouterr().out == said
    monkeypatch.setattr("sys.argv", ["gpu_build", *arguments, "2.11.0+cu126"])
    monkeypatch.setattr(gpu_build, "made", lambda *_: str(tmp_path / "right" / "bin" / "python"))
    with pytest.raises(SystemExit, match=r"has \['3.12', '2.11.0\+cu130'\], expected"):
        gpu_build.main()


def test_the_pages_say_what_gpus_have_run_it() -> None:
    for path in gpu.PAGES:
        said = f"<!-- gpu:begin -->\n{gpu.summaries()}\n<!-- gpu:end -->"
        assert said in path.read_text(), "python -m benchmarks.gpu --write"


def test_the_pages_have_a_reports_figures(tmp_path: Path) -> None:
    assert gpu.summaries(tmp_path) == gpu.NO_REPORT
    tests = {"verdict": "passed", "seconds": 61.2, "passed": 700, "failed": 0, "rows": []}
    ratio = {"work": "tanh", "dtype": "bfloat16", "torch / ours, forward": 1.01}
    speeds = {"verdict": "passed", "seconds": 9.0, "rows": [{"copy, GB/s": 4100}, ratio]}
    about = {"device": "H200", "driver": "580.1", "torch": "2.11", "python": "3.12", "day": "now"}
    report = {"machine": about, "parts": {"Tests": tests, "Speed": speeds}}
    (tmp_path / "h200.json").write_text(json.dumps(report))
    said = gpu.summaries(tmp_path)
    for part in (
        "H200",
        "driver 580.1",
        "700 passed",
        "moves 4100 GB/s",
        "| tanh | bfloat16 | 1.01 |",
    ):
        assert part in said


# --------------------------------------------------------------------------------------- accuracy


def test_accuracy_tables_have_every_row_and_can_be_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_picture, "INTERVALS", 3)
    path = tmp_path / "accuracy.json"
    accuracy.main(["--quick", "--samples", "1024", "--json", str(path)])
    printed = capsys.readouterr().out
    titles = [title for title, *_ in accuracy_libraries.with_parameters()]
    assert len(titles) == 6 + 3 * 2
    dtypes = len(accuracy.WIDE_TYPES) + len(accuracy_errors.HALF_TYPES)
    assert all(len(re.findall(rf"\| {title} +\|", printed)) >= dtypes for title in titles)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(path.read_text())
    assert data["machine"]["torch"] == torch.__version__
    assert {row["dtype"] for row in data["rows"]} == {"float32", "float64", "bfloat16", "float16"}
    accuracy.main(["--from", str(path), "--json", str(path)])
    assert capsys.readouterr().out == printed


def test_accuracy_rows_of_several_parameters_are_their_worst() -> None:
    report = accuracy.Report({}, 1, 1)
    chosen = [job for job in accuracy.jobs(1, 8) if job.title == "pow(x, e)"][:3]
    for job, largest in zip(chosen, (1.0, 3.0, 2.0), strict=True):
        report.add(job, {"torch": accuracy_errors.Errors(8, largest, 1, 1)})
    (row,) = report.rows
    assert row.errors == {"torch": accuracy_errors.Errors(24, 3.0, 3, 3)}


def test_short_accuracy_table_is_the_worst_of_a_group() -> None:
    found = [accuracy_errors.Errors(1, ulp) for ulp in (0.25, 1.5, 1.25)]
    rows = [
        accuracy.Row("float32", f"loss, target {i}", "loss", {"fusedgrad": e, "torch": e})
        for i, e in enumerate(found)
    ]
    rows.append(
        accuracy.Row("float64", "other", "other", {"fusedgrad": found[0], "torch": found[2]})
    )
    text = accuracy.short_table(accuracy.Report(report.machine(), 1, 8, rows))
    _, _, loss, other, *_ = text.splitlines()
    assert [cell.strip() for cell in loss.split("|")[1:-1]] == ["loss", "1.50", "1.50", "–", "–"]
    assert [cell.strip() for cell in other.split("|")[1:-1]] == ["other", "–", "–", "0.25", "1.25"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accuracy_sees_one_wrong_last_digit(dtype: torch.dtype) -> None:
    def off_by_one(
        function: accuracy_libraries.Function, x: torch.Tensor, p: torch.Tensor
    ) -> torch.Tensor:
        exact = torch.tanh(x.double()).to(dtype)
        return torch.where(x == 0.5, torch.nextafter(exact, torch.ones_like(exact)), exact)

    def chunk() -> accuracy_errors.Inputs:
        x = torch.linspace(0.25, 1, 193, dtype=dtype)
        return x, torch.zeros_like(x)

    library = accuracy_libraries.Library("off by one", off_by_one)
    errors = accuracy_errors.compare(accuracy_libraries.UNARY[3], library, chunk)
    assert errors.misrounded == 1
    assert 0.5 < errors.largest <= 1.5
    assert errors.wrong == errors.zeros == 0


def test_accuracy_counts_zeros_and_signs_that_must_not_be() -> None:
    def zeros(
        function: accuracy_libraries.Function, x: torch.Tensor, p: torch.Tensor
    ) -> torch.Tensor:
        return torch.where(x.abs() < 1, -x, torch.zeros_like(x))

    def chunk() -> accuracy_errors.Inputs:
        x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0, math.nan], dtype=torch.bfloat16)
        return x, torch.zeros_like(x)

    library = accuracy_libraries.Library("zeros", zeros)
    errors = accuracy_errors.compare(accuracy_libraries.UNARY[3], library, chunk)
    assert (errors.count, errors.misrounded, errors.zeros, errors.wrong) == (6, 2, 2, 3)


@pytest.mark.parametrize(
    "library", accuracy_libraries.libraries(), ids=lambda library: library.name
)
def test_libraries_compute_what_they_say(library: accuracy_libraries.Library) -> None:
    """At ordinary numbers, where none of them is far off."""
    for job in accuracy.jobs(1, 8):
        if not library.computes(job.function, job.dtype):
            continue
        x = torch.linspace(0.5, 3, 17).to(job.dtype)
        p = torch.full_like(x, 2.5)
        result = library.evaluate(job.function, x, p)
        assert result.dtype is job.dtype
        if job.function.exact.startswith("pow_scalar"):
            exponent = float(re.search(r"(\S+)\)", job.function.title)[1])  # type: ignore[index]
            p = torch.full_like(x, exponent) if exponent != 0.333 else p / 7.5
        errors = accuracy_errors.ulp_errors(job.function.exact, x, p, result)
        assert errors.wrong == 0
        assert errors.max_ulp < 4000, job


# ------------------------------------------------------------------------------------- comparison


def test_the_page_says_what_fusedgrad_and_torch_compute_where_activations_saturate() -> None:
    numbers = {"fusedgrad": comparison.with_torch(FUSEDGRAD), "torch": comparison.with_torch(TORCH)}
    page = comparison.PAGE.read_text()
    for row in comparison.table(numbers).splitlines()[2:]:
        title, exact, ours, theirs = (cell.strip() for cell in row.split("|")[1:-1])
        assert float(ours) == pytest.approx(float(exact), rel=1e-4)
        stated = re.search(rf"^\| {re.escape(title)} +\|(.*)\|$", page, re.MULTILINE)
        assert stated is not None, title
        assert [cell.strip() for cell in stated[1].split("|")][:3] == [exact, ours, theirs]
