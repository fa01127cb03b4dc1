"""The benchmarks measure what they say, at sizes that take no time; nothing here is timed."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from conftest import need

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`benchmarks` is a folder of the project, not a part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    return


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def _sides(ours: list[float], peers: list[float]) -> list[SimpleNamespace]:
    """Two sides that take as long as they are told, the first time to warm up."""
    cost = _module("timing").Cost
    costs = ([cost(seconds, 1) for seconds in [99, *times]] for times in (ours, peers))
    return [SimpleNamespace(cost=iter(each).__next__) for each in costs]


def test_the_figures_of_storage_are_measured(here: Path) -> None:
    need("rsync", shutil.which("rsync") is not None)
    need("strace", shutil.which("strace") is not None)
    storage = _module("storage")
    sizes = storage.Sizes(
        files=40, file=100, big=2 << 20, tasks=3, entries=30, runs=1, big_runs=1, hits=20
    )
    figures = list(storage.figures(here, sizes))
    lines = [figure.line() for figure in figures]
    for what in ("rsync -a", "to cp", "overlay", "link", "copy", "rm -rf", "hit", "opening"):
        assert any(what in line for line in lines), (what, lines)
    counted = [figure for figure in figures if "strace" in figure.how]
    assert [figure.value for figure in counted] == [1.0, 1.0]
    assert [path.name for path in here.iterdir() if path.name != "share"] == ["job"]


def test_the_figures_of_jobs_are_measured(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = _module("jobs")
    monkeypatch.setattr(jobs, "TASKS", 4)
    monkeypatch.setattr(jobs, "SHARED_TASKS", 4)
    monkeypatch.setattr(jobs, "SHARED_BYTES", 1 << 20)
    monkeypatch.setattr(jobs, "MANY", 100)
    monkeypatch.setattr(_module("commands"), "FILES", 4)
    monkeypatch.setattr(_module("commands"), "RUNS", 1)
    figures = list(jobs.figures(here))
    assert figures[2].value == 1.0
    lines = [figure.line() for figure in figures]
    for what in ("xargs", "make", "resuming a million tasks", "memory"):
        assert any(what in line for line in lines), (what, lines)


def test_the_figures_of_compute_are_measured_on_this_host(here: Path) -> None:
    compute = _module("compute")
    sizes = compute.Sizes(rounds=1, message_rounds=1, share=0.01, mpis=(), idle=0.2)
    lines = [figure.line() for figure in compute.figures(here, sizes)]
    for what in ("loky", "concurrent.futures", "multiprocessing.Pool", "socketpair", "CPU", "clo"):
        assert any(what in line for line in lines), (what, lines)


def _mpi_is_there(mpi: str) -> None:
    need(f"tools/mpi-wheels: {mpi}", Path(sys.prefix, "mpi", mpi, "bin/mpiexec").exists())


def test_tasks_are_measured_under_an_mpi() -> None:
    _mpi_is_there("mpich")
    compute = _module("compute")
    figures = compute._mpi_tasks("mpich", compute.Sizes(rounds=1, share=0.01, pyopus=False))
    submit, mapped = [figure.line() for figure in figures]
    assert "submit, mpich, to mpi4py.futures" in submit
    assert "best in chunks of" in mapped


def test_messages_and_waiting_are_measured_under_an_mpi() -> None:
    _mpi_is_there("openmpi")
    compute = _module("compute")
    figures = compute._mpi_messages(
        "openmpi", compute.Sizes(message_rounds=1, share=0.01, pyopus=False)
    )
    small, arrays = [figure.line() for figure in figures]
    assert "round trip, openmpi inline" in small
    assert "pkl5" in arrays
    share, how = _module("idle")._idle("mpi", "openmpi", 0.2)
    assert share > 0
    assert "5 processes" in how


def test_the_dialect_is_measured_under_an_mpi() -> None:
    _mpi_is_there("mpich")
    compute = _module("compute")
    program = compute.Program("dialect", ranks=2, arguments=("encamp.compat.pyopus",))
    found = compute.measured(program, "mpich", 0.01)
    assert found.keys() == {"job_us", "collected_us", "exchange_us"} < compute._UNITS.keys()


def test_a_ratio_is_within_a_round_and_to_the_best_of_the_peers() -> None:
    compute = _module("compute")
    rates = [{"a": 8.0, "b": 1.0, "c": 2.0}, {"a": 9.0, "b": 3.0, "c": 1.0}]
    rounds = [{name: {"submit_per_s": rate} for name, rate in each.items()} for each in rates]
    wanted = compute.Wanted("x", "submit_per_s", "a", ("b", "c"), at_least=3.6)
    figure = wanted.figure(rounds)
    assert (figure.value, figure.holds) == (3.5, False)
    assert "2 pairs 3.00 to 4.00" in figure.how
    rounds = [{name: {"round_trip_us": rate} for name, rate in each.items()} for each in rates]
    wanted = compute.Wanted("x", "round_trip_us", "a", ("b", "c"), at_most=8.5)
    figure = wanted.figure(rounds)
    assert (figure.value, figure.holds) == (8.5, True)


def test_the_figures_of_the_controller_are_measured(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = _module("controller")
    monkeypatch.setattr(controller, "HOSTS", 20)
    monkeypatch.setattr(controller, "COUNTS", (50, 100, 200))
    monkeypatch.setattr(controller, "WAITING", 500)
    memory, cost = controller.figures(here)
    assert 100 < memory.value < 10_000
    assert cost.value > 0


def test_a_ratio_is_the_median_of_all_pairs_but_the_first() -> None:
    timing = _module("timing")
    ours, peers = _sides([1, 2, 9], [2, 4, 4])
    figure = timing.compare("x", ours, peers, at_most=0.5, runs=3)
    assert (figure.value, figure.holds) == (0.5, True)
    assert "0.50 to 2.25" in figure.how
    ours, peers = _sides([1, 2, 9], [2, 4, 4])
    figure = timing.compare("x", ours, peers, at_least=3, runs=3)
    assert (figure.value, figure.holds) == (2.0, False)
    assert figure.line().startswith("MISS x")


def test_setup_and_teardown_are_not_timed() -> None:
    timing = _module("timing")
    order: list[str] = []
    side = timing.Side(
        lambda: order.append("action"),
        before=lambda: order.append("before"),
        after=lambda: order.append("after"),
    )
    assert 0 <= side.cost().seconds < 60
    assert order == ["before", "action", "after"]


@pytest.mark.parametrize("name", ["steps", "nothing"])
def test_a_name_without_figures_is_answered_with_those_that_have_some(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _module("__main__").main(["storage", name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{name} has no figures here; choose from storage, compute,")
    assert "python -m benchmarks.steps" in captured.err


def test_make_bench_ends_with_1_where_a_figure_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main, timing = _module("__main__"), _module("timing")
    found = [timing.amount("a", 1, "s", at_most=2), timing.amount("b", 3, "s", at_most=2)]
    monkeypatch.setattr(_module("jobs"), "figures", lambda folder: iter(found))
    assert main.main(["jobs"]) == 1
    header, good, bad = capsys.readouterr().out.splitlines()
    assert header.startswith("jobs (on ")
    assert good.split()[0] == "ok"
    assert bad.split()[0] == "MISS"
    monkeypatch.setattr(_module("jobs"), "figures", lambda folder: iter(found[:1]))
    assert main.main(["jobs"]) == 0


def test_the_figures_of_services_are_measured(here: Path) -> None:
    services = _module("services")
    managers = services._MANAGERS  # the peer that needs nothing from the package index
    sizes = services.Sizes(rounds=1, share=0.01, peers=(managers,))
    figures = list(services.figures(here, sizes))
    assert [figure.what for figure in figures] == [
        "calls, to managers",
        "10 MB arrays, to managers",
        "broadcast to 8 servers, to one call",
    ]
    assert all(figure.value > 0 for figure in figures)


def test_the_comparison_finds_what_each_system_does_after_changes_and_a_kill(here: Path) -> None:
    need("ngspice", shutil.which("ngspice") is not None)
    need("parallel", shutil.which("parallel") is not None)
    compared = _module("compared")
    chosen = [system for system in compared.SYSTEMS if system.name in ("GNU parallel", "encamp")]
    theirs, ours = (compared.compare(one, here / one.file, 6) for one in chosen)
    assert (theirs.first.calls, ours.first.calls) == (6, 6)
    assert (theirs.again.calls, ours.again.calls) == (0, 0)
    assert (theirs.noticed, ours.noticed) == (False, True)
    assert (theirs.rows, ours.rows) == (5, 5)
    assert theirs.right
    assert ours.right
    page = here / "page.md"
    page.write_text(f"before\n{compared.BEGIN}\nold\n{compared.END}\nafter\n")
    compared.write(compared.table([theirs, ours], 6), page)
    assert "| Lines of user code | 12 | 7 |" in page.read_text()
    assert "old" not in page.read_text().splitlines()
