"""The report of a run: its three files, and the page as a real browser shows it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import shutil
import stat
import subprocess
import time
from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from encamp.attempt_facts import Published, Span, Where
from encamp.errors import BadJob, DiskFull, NotOurs
from encamp.job_status import JobStatus, RunningTask, State
from encamp.jobs.report import page_facts
from encamp.jobs.report import trace as trace_module
from encamp.jobs.report.read_report import read_report
from encamp.jobs.report.write_report import write_page, write_report
from encamp.reports import AttemptReport, InputFile, JobReport, TaskReport
from encamp.service_statistics import ServerStatistics, ServiceStatistics
from encamp.storage.disk.trusted_files import TrustedFolder

START = 1_760_000_000.0
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def spans(start: float, job: float, task: float, steps: list[tuple[str, float]]) -> list[Span]:
    """The phases of one attempt, one after the other."""
    found = []
    named = [("job prephase", job), ("task prephase", task), *steps, ("task postphase", 0.02)]
    for name, seconds in named:
        if seconds:
            found.append(Span(name, start, seconds))
            start += seconds
    return found


def job_report(name: str, tasks: list[TaskReport], seconds: float, **other: Any) -> JobReport:
    facts: dict[str, Any] = {
        "destination": f"/data/survey/{name}",
        "folder": f"/data/survey/{name}/{name}.job",
        "started": START,
        "ended": START + seconds,
        "controller": "ridge.example.org",
        "executor": "ProcessPoolExecutor (2 workers)",
        "version": "0.1.0",
        "interrupted": False,
    }
    return JobReport(name=name, tasks=tasks, **(facts | other))


def six_tasks() -> JobReport:
    """Five strips and a mosaic of them on two slots of one host."""
    tasks, free = [], [START + 0.11, START + 0.14]
    for n in range(5):
        slot = n % 2
        steps = [("import_strip", 0.31 + 0.05 * n), ("gdaldem hillshade strip.tif", 0.8 - 0.06 * n)]
        phases = spans(free[slot], 0.21 if n < 2 else 0.0, 0.06, steps)
        where = Where("ridge", f"ForkProcess-{slot + 1}", 4711 + slot)
        free[slot] = phases[-1].start + phases[-1].seconds + 0.03
        attempt = AttemptReport(
            1, where, START + 0.05, phases, 3_300_000, 2, 48_000_000 if n < 1 else 0, 0.9, 91 << 20
        )
        tasks.append(
            TaskReport(
                f"strip-{n + 1}",
                "done",
                [attempt],
                [Published(f"grids/strip-{n + 1}.npy", 1_400_000, 1, "0" * 32)],
                "never run before",
                f"logs/strip-{n + 1}.log",
                f"strip {n + 1}: 58 rows\n",
                value={"rows": 58},
            )
        )
    start = max(free) + 0.05
    last = AttemptReport(
        1,
        Where("ridge", "ForkProcess-1", 4711),
        start,
        spans(start + 0.01, 0.0, 0.09, [("mosaic", 0.74)]),
        8_200_000,
        6,
        0,
        0.71,
        150 << 20,
    )
    tasks.append(TaskReport("mosaic", "done", [last], why="never run before"))
    return job_report("terrain", tasks, start + 0.95 - START)


def many_tasks(count: int = 500, hosts: int = 3, slots: int = 8) -> JobReport:
    """A circuit's corners over several hosts: failures, retries, a lost slot, blocked tasks."""
    chance = random.Random(count)
    free = {
        (f"node-{host + 1}", slot): START + chance.uniform(0.2, 0.9)
        for host in range(hosts)
        for slot in range(slots)
    }
    seen: set[str] = set()
    tasks = [_corner(n, chance, free, seen) for n in range(count - 12)]
    end = max(free.values())
    tasks += [TaskReport(f"old-{n}", "up to date", why="nothing changed") for n in range(6)]
    tasks += [
        TaskReport(f"yield-{n}", "blocked", why="waits for corner-0017, which failed")
        for n in range(6)
    ]
    executor = "dask: tcp://node-1.cluster:8786"
    return job_report("corners", tasks, end + 0.4 - START, executor=executor)


def _corner(
    n: int, chance: random.Random, free: dict[tuple[str, int], float], seen: set[str]
) -> TaskReport:
    name = f"corner-{n:04d}"
    attempts: list[AttemptReport] = []
    bad = 3 if n in (17, 200, 341) else 1 if n % 61 == 8 else 0
    for number in range(1, 4):
        host, slot = min(free, key=lambda key: free[key])
        start = free[host, slot] + 0.01
        fails = number <= bad
        steps = [("ngspice -b corner.cir", chance.lognormvariate(0.3, 0.5) * (0.4 if fails else 1))]
        if not fails:
            steps.append(("measure", 0.12))
        phases = spans(start, 0.0 if host in seen else 1.1, chance.uniform(0.03, 0.09), steps)
        seen.add(host)
        end = phases[-1].start + phases[-1].seconds
        free[host, slot] = end
        error = "step 'ngspice -b corner.cir' ended with exit status 1" if fails else None
        attempts.append(
            AttemptReport(
                number,
                Where(host, f"tcp://10.0.0.{host[-1]}:4{slot}013", 20100 + 37 * slot),
                START + 0.1,
                phases,
                chance.randint(12_000, 90_000),
                3,
                0,
                0.93 * (end - start),
                chance.randint(30 << 20, 60 << 20),
                error,
                "StepFailed" if fails else None,
            )
        )
        if not fails:
            break
    state: State = "failed" if bad == 3 else "done"
    log = "".join(f"Iteration {i}: gmin stepping\n" for i in range(4))
    tail = log + "doAnalyses: TRAN: Timestep too small; time = 1.2e-09\nrun aborted\n"
    return TaskReport(
        name,
        state,
        attempts,
        [Published(f"raw/{name}.raw", 83_000, 1, "0" * 32)] if state == "done" else [],
        "its steps changed" if state == "done" else "",
        f"logs/{name}.log",
        tail if state == "failed" else "",
        f"node-1:/scratch/encamp/{name}" if state == "failed" else None,
    )


def never_run() -> JobReport:
    """Every state that a task can be in without having run, and a loss before any phase."""
    states: tuple[State, ...] = ("waiting", "blocked", "up to date", "to do")
    tasks = [TaskReport(f"task {state}", state) for state in states]
    lost = AttemptReport(1, None, START + 1, error="its host went away", error_type="TaskLost")
    tasks.append(TaskReport("lost", "failed", [lost]))
    return job_report("idle", tasks, 2.0, interrupted=True)


def hostile() -> JobReport:
    names = [
        HOSTILE,
        "</script><script>document.title='owned'</script>",
        "a\nb\tc",
        "non-utf8-\udcff\udcfe.las",
        "-rf",
        "right\u202eto left",
        "javascript:alert(1)",
        "🏔️ ridge & “quotes' \\",
        "<!--<script>",
        "@FACTS@ @TITLE@",
    ]
    where = Where(HOSTILE, HOSTILE, 1)
    tasks = [
        TaskReport(
            name,
            "failed",
            [
                AttemptReport(
                    1, where, START, [Span(name, START + n, 0.5)], error=name, error_type=name
                )
            ],
            [Published(name, 1, 1, "0" * 32)],
            name,
            f"logs/{name}",
            name,
            name,
            name,
        )
        for n, name in enumerate(names)
    ]
    return job_report(HOSTILE, tasks, 12.0, controller=HOSTILE, executor=HOSTILE, version=HOSTILE)


@pytest.mark.parametrize("make", [six_tasks, many_tasks, never_run])
def test_a_report_is_read_back_as_it_was_written(make: Any, tmp_path: Path) -> None:
    report = make()
    page = write_report(report, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert read_report(page.with_name("report.json")) == report


def test_only_the_three_files_are_left_and_others_may_read_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_report(six_tasks(), tmp_path)
        write_report(never_run(), tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"report.html": 0o644, "report.json": 0o644, "trace.json": 0o644}
    assert read_report(tmp_path / "report.json").name == "idle"


def test_a_report_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = write_report(six_tasks(), tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="is full: "):
        write_report(never_run(), page.parent)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"name": 1}', b"\xff\xfe", b'"\\udcff"', b"[" * 100_000],
)
def test_a_broken_report_is_a_bad_job(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(BadJob, match="is not a report"):
        read_report(path)


def test_a_cut_report_and_a_missing_one_are_bad_jobs(tmp_path: Path) -> None:
    write_report(six_tasks(), tmp_path)
    path = tmp_path / "report.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadJob, match="is not a report"):
        read_report(path)
    with pytest.raises(BadJob, match="cannot be read: No such file"):
        read_report(tmp_path / "none.json")
    with pytest.raises(NotOurs, match="not a regular file"):
        read_report(tmp_path)


def test_undecodable_names_are_written_escaped(tmp_path: Path) -> None:
    write_report(hostile(), tmp_path)
    names = [task.name for task in read_report(tmp_path / "report.json").tasks]
    assert "non-utf8-\\xff\\xfe.las" in names
    assert "a\nb\tc" in names
    assert "./raw%FF" not in (tmp_path / "report.html").read_text()
    assert "non-utf8-%FF%FE.las" in (tmp_path / "report.html").read_text()


@dataclass
class Measured:
    slope: float = 1.5
    label: str = "bad \ud800"


@dataclass
class Ring:
    links: list[Any] = field(default_factory=list)


def ring() -> Ring:
    made = Ring()
    made.links.append(made)
    return made


class Unwilling:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "carried"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
        ((1, 2), [1, 2]),
        ({(1, 2): 3, None: 4}, {"(1, 2)": 3, "None": 4}),
        ([math.nan, math.inf], [None, None]),
        (10**30, 10**30),
        (2**10_000, hex(2**10_000)),
        ("\udcff \ud800 </script>", "\\udcff \\ud800 </script>"),
        (Measured(), {"slope": 1.5, "label": "bad \\ud800"}),
        (ring(), {"links": ["…"]}),
        (Unwilling(), "<Unwilling>"),
        (b"bytes", "<bytes>"),
        (Ring, "<type>"),
    ],
)
def test_any_value_can_be_reported(value: Any, carried: Any, tmp_path: Path) -> None:
    report = job_report("values", [TaskReport("one", "done", value=value)], 1.0)
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json")["one"].value == carried


def test_deeply_nested_values_and_long_texts_can_be_reported(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    tasks = [
        TaskReport("deep", "done", value=deep),
        TaskReport("long", "done", value="x" * 10**6, log_tail="y" * 10**6),
    ]
    page = write_report(job_report("big", tasks, 1.0), tmp_path)
    assert read_report(tmp_path / "report.json")["long"].value == "x" * 10**6
    assert page.stat().st_size < 200_000


def test_page_data_cannot_escape_its_script_element(tmp_path: Path) -> None:
    text = write_report(hostile(), tmp_path).read_text()
    element = text.partition('<script type="application/json" id="report">')[2]
    facts = element.partition("</script>")[0]
    assert "<" not in facts
    assert json.loads(facts)["tasks"][0]["name"] == HOSTILE
    assert json.loads(facts)["tasks"][-1]["name"] == "@FACTS@ @TITLE@"
    assert "<title>&lt;script&gt;" in text
    links = [output["href"] for task in json.loads(facts)["tasks"] for output in task["outputs"]]
    assert all(link.startswith("./../") for link in links)
    assert "://" not in text.replace(facts, "").replace("http://www.w3.org/2000/svg", "")


def trace_of(report: JobReport, folder: Path) -> dict[str, Any]:
    write_report(report, folder)
    trace: dict[str, Any] = json.loads((folder / "trace.json").read_bytes())
    return trace


@pytest.mark.parametrize("make", [six_tasks, many_tasks, never_run, hostile])
def test_the_trace_has_every_attempt_and_phase_on_a_named_thread(make: Any, tmp_path: Path) -> None:
    report = make()
    events = trace_of(report, tmp_path)["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    hosts = {e["pid"] for e in events if e["name"] == "process_name"}
    drawn = [event for event in events if event["ph"] != "M"]
    attempts = [attempt for task in report.tasks for attempt in task.attempts]
    assert len(drawn) == len(attempts) + sum(len(a.phases) for a in attempts)
    assert {(e["pid"], e["tid"]) for e in drawn} <= named
    assert {e["pid"] for e in drawn} <= hosts
    assert all(isinstance(e["ts"], int) and e["ts"] >= 0 for e in drawn)


def test_the_events_of_a_thread_of_the_trace_nest(tmp_path: Path) -> None:
    report = many_tasks()
    threads = defaultdict(list)
    for event in trace_of(report, tmp_path)["traceEvents"]:
        if event["ph"] == "X":
            threads[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) == 24
    for times in threads.values():
        open_ends: list[int] = []
        for start, end in sorted(times, key=lambda pair: (pair[0], -pair[1])):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1]
            open_ends.append(end)


def test_attempts_that_overlap_in_one_slot_get_lanes_of_their_own(tmp_path: Path) -> None:
    where = Where("ridge", "MainThread", 1)
    tasks = [
        TaskReport(
            f"t{n}", "done", [AttemptReport(1, where, START, [Span("step", START + n, 1.5)])]
        )
        for n in range(4)
    ]
    events = trace_of(job_report("threads", tasks, 6.0), tmp_path)["traceEvents"]
    lanes = {e["name"]: e["tid"] for e in events if e.get("cat") == "attempt"}
    assert lanes["t0"] == lanes["t2"] != lanes["t1"] == lanes["t3"]


def test_slots_that_each_ran_one_task_share_lanes(tmp_path: Path) -> None:
    tasks = [
        TaskReport(
            f"t{n}",
            "done",
            [AttemptReport(1, Where("h", f"w{n % 3}", n), START, [Span("step", START + n, 0.9)])],
        )
        for n in range(300)
    ]
    events = trace_of(job_report("fresh", tasks, 301.0), tmp_path)["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert names == ["w0", "w1", "w2"]


def test_trace_of_many_tasks_is_sampled_but_has_all_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "_LARGEST", 40_000)
    tasks = [
        TaskReport(
            f"t{n}",
            "up to date" if n > 300 else "failed" if n % 100 == 99 else "done",
            [AttemptReport(1, Where("h", "w", n), START, [Span("step", START + n, 0.9)])],
        )
        for n in range(600)
    ]
    trace = trace_of(job_report("many", tasks, 301.0), tmp_path)
    drawn = {e["name"] for e in trace["traceEvents"] if e.get("cat") in ("attempt", "failed")}
    assert 50 < len(drawn) < 301
    assert {"t99", "t199", "t299"} < drawn
    assert max(int(name[1:]) for name in drawn) > 250  # evenly spread
    assert trace["otherData"]["shown"] == (
        f"{len(drawn)} of 301 tasks that ran; all are in report.json"
    )
    assert trace["otherData"]["shown"] in {e["name"] for e in trace["traceEvents"]}
    assert (tmp_path / "trace.json").stat().st_size < 41_000


class Page(HTMLParser):
    """What a page shows: its elements, and their texts by id, class or tag."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = defaultdict(list)
        self._within: str | None = None
        self.feed(dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = str(dict(attrs).get("id") or dict(attrs).get("class") or tag)
        self.texts[self._within].append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = None

    def handle_data(self, data: str) -> None:
        if self._within:
            self.texts[self._within][-1] += data

    def having(self, *names: str) -> list[dict[str, str | None]]:
        """The attributes of the elements that have all these classes."""
        wanted = set(names)
        return [at for _, at in self.tags if wanted <= set((at.get("class") or "").split())]

    @property
    def names(self) -> list[str]:
        """The names in the table of tasks, top down."""
        return self.texts["plain"][-len(self.having("task")) :]


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if "ENCAMP_REQUIRE_ENGINES" in os.environ:
            pytest.fail("chromium is not installed, and ENCAMP_REQUIRE_ENGINES is set")
        pytest.skip("chromium is not installed")
    return found


@dataclass
class Browser:
    command: str
    profile: Path

    def run(self, page: Path, *options: str) -> tuple[str, list[str]]:
        """The page's DOM after its script has run, and what the script's console said."""
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync"
        flags += " disable-background-networking disable-component-update enable-logging=stderr"
        line = [self.command, *(f"--{flag}" for flag in flags.split())]
        line += [f"--user-data-dir={self.profile}", *options, "--dump-dom", page.as_uri()]
        done = subprocess.run(line, capture_output=True, timeout=100, check=True)
        output = done.stderr.decode(errors="replace").splitlines()
        return done.stdout.decode(), [text for text in output if "CONSOLE" in text]


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> Browser:
    return Browser(chromium, tmp_path / "profile")


@pytest.mark.browser
def test_browser_console_errors_are_captured(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>nothing.here()</script>")
    assert "nothing is not defined" in browser.run(page)[1][0]


@pytest.mark.browser
@pytest.mark.parametrize("make", [six_tasks, lambda: many_tasks(2000)], ids=["6", "2000"])
def test_the_page_shows_every_task_and_attempt(make: Any, browser: Browser, tmp_path: Path) -> None:
    report = make()
    dom, output = browser.run(write_report(report, tmp_path))
    page = Page(dom)
    assert output == []
    assert page.names == [task.name for task in report.tasks]
    bars = page.having("bar")
    attempts = [attempt for task in report.tasks for attempt in task.attempts]
    assert len(bars) == len(attempts)
    failed = [attempt for attempt in attempts if attempt.error is not None]
    assert len(page.having("bar", "bad")) == len(failed)
    assert len(page.having("failure")) == min(20, report.count("failed"))


def with_services() -> JobReport:
    living = ServerStatistics(2, "ridge", 1, "held", 1200, 3, 4.25, 0.0035)
    waiting = ServerStatistics(3, "", None, "waits for a slot", 0, 0, 0.0, 0.0)
    gone = ServerStatistics(1, "vale", 0, "lost", 7, 0, 0.5, 0.07)
    some = ServiceStatistics("Sampler", 4, 2, 1, (living, waiting), (gone,))
    return replace(six_tasks(), services=[some, ServiceStatistics(HOSTILE, 0, 0, 0, ())])


@pytest.mark.browser
def test_the_page_shows_what_services_have_done(browser: Browser, tmp_path: Path) -> None:
    dom, output = browser.run(write_report(with_services(), tmp_path))
    page = Page(dom)
    assert output == []
    assert read_report(tmp_path / "report.json") == with_services()
    assert [" 1,207 calls" in text for text in page.texts["soft"]].count(True) == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert len(page.having("service")) == 2
    assert len(page.having("gone")) == 1
    cells = page.texts["text"][3:12]
    assert [cells[at : at + 3] for at in (0, 3, 6)] == [
        ["2", "ridge", "held"], ["3", "\N{EN DASH}", "waits for a slot"], ["1", "vale", "lost"],
    ]  # fmt: skip


@pytest.mark.browser
def test_the_page_tells_the_whole_in_its_head(browser: Browser, tmp_path: Path) -> None:
    report = replace(six_tasks(), started=START, ended=START + 4.0)
    busy = sum(span.seconds for t in report.tasks for a in t.attempts for span in a.phases)
    page = Page(browser.run(write_report(report, tmp_path))[0])
    assert page.texts["name"][0] == "terrain"
    assert page.texts["outcome"] == ["✓ all done"]
    figures = page.texts["figure"]
    assert figures[:4] == ["4.00 s", "6", f"{busy / 4:.1f} \N{MULTIPLICATION SIGN}", "1 host"]


@pytest.mark.browser
def test_the_page_of_a_run_that_failed_names_inputs_and_claims_no_speed_up(
    browser: Browser, tmp_path: Path
) -> None:
    report = with_inputs()
    failed = [replace(task, state="failed") for task in report.tasks]
    dom = browser.run(write_report(replace(report, tasks=failed), tmp_path))[0]
    assert Page(dom).texts["figure"][2] == "\N{EN DASH}"
    texts = [text for texts in Page(dom).texts.values() for text in texts]
    assert "4 inputs: /data/in.las" in texts


@pytest.mark.browser
def test_hostile_names_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    dom, output = browser.run(write_report(hostile(), tmp_path))
    page = Page(dom)
    assert output == []
    assert page.texts["title"][0].startswith("<script>")
    assert "img" not in {tag for tag, _ in page.tags}
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert page.names[0] == HOSTILE
    assert {"a\\nb\\tc", "non-utf8-\\xff\\xfe.las", "right\\u202eto left"} <= set(page.names)
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert all(link.startswith(("./", "#")) for link in links)


@pytest.mark.browser
@pytest.mark.parametrize(
    "make", [never_run, lambda: job_report("empty", [], 0.0)], ids=["never run", "empty"]
)
def test_tasks_that_never_ran_are_shown_too(make: Any, browser: Browser, tmp_path: Path) -> None:
    report = make()
    dom, output = browser.run(write_report(report, tmp_path))
    assert output == []
    page = Page(dom)
    assert len(page.having("task")) == len(report.tasks)
    assert len(page.having("bar")) == sum(len(task.attempts) for task in report.tasks)


USE_THE_PAGE = """<script>
addEventListener("load", () => {
  const names = () => [...document.querySelectorAll("tr.task .plain")].map(b => b.textContent);
  const said = {};
  const heads = [...document.querySelectorAll("#heads button")];
  const head = name => heads.find(b => b.textContent === name);
  head("Steps").click();
  said.slowest = names()[0];
  head("Task").click();
  said.first = names()[0];
  head("Task").click();
  said.sorted = [...document.querySelectorAll("[aria-sort=descending]")].map(h => h.textContent);
  const find = document.getElementById("find");
  find.value = "corner-0017";
  find.dispatchEvent(new Event("input"));
  said.found = names();
  const bar = [...document.querySelectorAll(".bar:not(.bad)")][5];
  bar.focus();
  said.tip = document.getElementById("tip").textContent;
  const key = name =>
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
  const width = () => document.querySelector(".axis .track").clientWidth;
  const narrow = width();
  key("+");
  said.zoom = Math.round(width() / narrow);
  key("ArrowRight");
  said.moved = document.activeElement.className.includes("bar") && document.activeElement !== bar;
  document.activeElement.click();
  said.opened = document.querySelectorAll("tr.detail").length;
  said.tasks = names().length;
  document.querySelector(".failure .plain").click();
  said.focused = document.activeElement.textContent;
  [...document.querySelectorAll("#chips button")].find(b => /blocked/.test(b.textContent)).click();
  said.blocked = names().length;
  const out = document.createElement("output");
  out.textContent = JSON.stringify(said);
  document.body.append(out);
});
</script>"""


def with_inputs() -> JobReport:
    """The mosaic waits for the strips; the first one has inputs."""
    report = six_tasks()
    first, *rest, mosaic = report.tasks
    inputs = [InputFile("/data/in.las", "in.las", 5000, int(START * 1e9))]
    first = replace(first, inputs=inputs, more_inputs=3, parameters={"sun": 45})
    after = {mosaic.name: [task.name for task in (first, *rest)]}
    return replace(report, tasks=[first, *rest, mosaic], after=after)


_UNFOLD = """
document.querySelector("#tasks .plain").click();
const all = "#tasks .detail h4, #tasks .detail td, #steps td, #graph text";
const told = [...document.querySelectorAll(all)];
document.body.append(Object.assign(document.createElement("output"), {textContent:
  JSON.stringify(told.map(one => one.textContent))}));
"""
_AT_ONCE = """
const again = performance.getEntriesByType("navigation")[0].type === "reload";
window.setTimeout = call => { if (again) window.renewed = true; else call(); };
addEventListener("load", () => { if (window.renewed) document.title = "renewed"; });
"""
"""Has what the page wants to do later done now, but once."""


def with_script(page: Path, script: str, *, before: bool = False) -> Path:
    """The page with a script of the test's, which its policy allows."""
    allowed = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{allowed}' ")
    place = "</head>" if before else "</body>"
    page.write_text(text.replace(place, f"<script>{script}</script>{place}"))
    return page


@pytest.mark.browser
def test_the_page_shows_inputs_arguments_steps_and_the_order(
    browser: Browser, tmp_path: Path
) -> None:
    report = with_inputs()
    assert read_report(write_report(report, tmp_path).with_name("report.json")) == report
    dom, output = browser.run(with_script(tmp_path / "report.html", _UNFOLD))
    assert output == []
    texts = json.loads(Page(dom).texts["output"][0])
    for text in ("Inputs (the first 1 of 4)", "in.las", "4.88 KiB", "Arguments"):
        assert text in texts
    assert "task prephase" in texts
    boxes = [text for text in texts if text in {task.name for task in report.tasks}]
    assert boxes[-len(report.tasks) :] == [task.name for task in report.tasks]


@pytest.mark.browser
def test_page_of_running_job_reloads_itself(browser: Browser, tmp_path: Path) -> None:
    report = six_tasks()
    waiting = replace(report.tasks[-1], state="waiting", attempts=[], outputs=[], why="")
    report = replace(report, tasks=[*report.tasks[:-1], waiting])
    folder = TrustedFolder(tmp_path)
    status = JobStatus(
        name=report.name, folder="/", state="running", controller="here", now=time.time(),
        started=START, tasks=6, counts={"done": 5, "running": 1}, left=65.2,
        running=[RunningTask(waiting.name, 2, time.time() - 3)],
    )  # fmt: skip
    write_page(report, folder, status, 4.0)
    page = with_script(tmp_path / "report.html", _AT_ONCE, before=True)
    dom, output = browser.run(page)
    assert output == []
    assert "running: 5 of 6, about 1 min 05 s left" in dom
    assert "for 3.00 s, attempt 2" in dom
    assert Page(dom).texts["title"][0] == "renewed"
    write_page(report, folder, replace(status, now=time.time() - 3600), 4.0)
    assert "the run may have been killed" in browser.run(tmp_path / "report.html")[0]


@pytest.mark.browser
def test_the_page_runs_no_script_but_its_own(browser: Browser, tmp_path: Path) -> None:
    page = write_report(many_tasks(), tmp_path)
    script = "<script>document.title = 'owned'</script>"
    page.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    dom, (output,) = browser.run(page)
    assert "Content Security Policy" in output
    assert Page(dom).texts["title"][0] != "owned"


@pytest.mark.browser
def test_the_page_sorts_filters_zooms_and_follows_the_keyboard(
    browser: Browser, tmp_path: Path
) -> None:
    report = many_tasks()
    page = write_report(report, tmp_path)
    script = USE_THE_PAGE.removeprefix("<script>").removesuffix("</script>")
    allowed = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{allowed}' ")
    page.write_text(text.replace("</body>", USE_THE_PAGE + "</body>"))
    dom, output = browser.run(page)
    assert output == []
    seen = json.loads(Page(dom).texts["output"][0])
    ran = [task for task in report.tasks if task.attempts]
    steps = {
        task.name: sum(s.seconds for s in task.attempts[-1].phases if "phase" not in s.name)
        for task in ran
    }
    assert seen["slowest"] == max(steps, key=lambda name: steps[name])
    assert seen["first"] == "corner-0000"
    assert seen["sorted"] == ["Task"]
    assert "corner-0017" in seen["found"]
    assert len(seen["found"]) == 1 + 6
    assert "attempt 1 of" in seen["tip"]
    assert "ngspice -b corner.cir" in seen["tip"]
    assert seen["zoom"] == 2
    assert seen["moved"]
    assert seen["opened"] == 1
    assert seen["tasks"] == len(report.tasks)
    assert seen["focused"] == "corner-0017"
    assert seen["blocked"] == 6


def _facts_of(page: Path) -> dict[str, Any]:
    text = page.read_text()
    found: dict[str, Any] = json.loads(text.split('id="report">')[1].split("</script>")[0])
    return found


def _sized(count: int, failed: int) -> JobReport:
    """A run of many tasks, of which the last ``failed`` have failed, with much in their logs."""
    tasks = []
    for n in range(count):
        where = Where(f"node{n % 3}", f"slot-{n % 2}", n)
        bad = n >= count - failed
        error = "it failed" if bad else None
        phases = spans(START + n, 0.1, 0.1, [("sort", 0.3)])
        attempt = AttemptReport(1, where, START + n, phases, 10, 1, 0, 0.2, n, error)
        state: State = "failed" if bad else "done"
        tasks.append(TaskReport(f"task-{n}", state, [attempt], log_tail="<>&" * bad * 400))
    return job_report("many", tasks, count)


@pytest.mark.parametrize("failed", [0, 10, 1000])
def test_a_page_has_a_bounded_size_and_tells_the_whole_in_numbers(
    failed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_facts, "_LARGEST", 300_000)
    report = _sized(1000, failed)
    written = write_report(report, tmp_path)
    assert written.stat().st_size < 300_000 + 100_000
    facts = _facts_of(written)
    left, shown = facts["left_out"], facts["tasks"]
    assert len(shown) + left["tasks"] == 1000
    assert 10 <= len(shown) < 1000
    bad = sum(task["state"] == "failed" for task in shown)
    assert bad + left["states"].get("failed", 0) == failed
    assert bad == failed or failed == 1000  # those that failed come first
    if failed < 1000:  # the others are spread over the whole run
        numbers = [int(task["name"][5:]) for task in shown]
        assert min(numbers) < 50
        assert max(numbers) > 900
        assert max(b - a for a, b in itertools.pairwise(numbers)) < 50
    attempts = [attempt for task in shown for attempt in task["attempts"]]
    assert sum(a["cpu_seconds"] for a in attempts) + left["cpu_seconds"] == pytest.approx(200)
    busy = sum(p["seconds"] for a in attempts for p in a["phases"]) + sum(left["busy"].values())
    assert busy == pytest.approx(520)
    assert set(left["busy"]) <= {"node0", "node1", "node2"}
    assert read_report(tmp_path / "report.json") == report


def test_a_task_with_very_many_outputs_and_attempts_has_room_on_the_page(tmp_path: Path) -> None:
    outputs = [Published(f"f{n}", 1, 1, "0" * 32) for n in range(50_000)]
    attempts = [AttemptReport(n, None, START, error="e" * 5000) for n in range(2000)]
    task = TaskReport("task", "failed", attempts, outputs, "x" * 100_000)
    written = write_report(job_report("job", [task], 1.0), tmp_path)
    assert written.stat().st_size < 300_000
    [shown] = _facts_of(written)["tasks"]
    assert (shown["made"], len(shown["outputs"])) == (50_000, 100)
    assert shown["attempts"][-1]["number"] == 1999
