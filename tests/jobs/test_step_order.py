"""In which order a run flushes, renames and journals, as strace(1) saw it.

A file that has its final name is whole on the disk; whose that name is was journaled before, and is
on the disk as well; that its task is done is journaled when the name is on the disk, too. So a kill
or a power cut between any two steps leaves what the next run understands.
"""

from __future__ import annotations

from pathlib import Path

from traces import Trace, traced

JOB = """\
import encamp
job = encamp.Job("job", to="out")
for name, existing in {"a": "replace", "b": "error", "c": "keep"}.items():
    outputs = [encamp.Output(f"{name}.{n}", f"to-{n}/{name}", existing=existing) for n in "xy"]
    job.add(name, [f"cp input {name}.{n}" for n in "xy"], mirror="input", outputs=outputs)
job.add("d", ["cp input d.z", "false"], mirror="input", on_failure={"d.z": "failed"})
job.run(slots=1, check=False)
"""


def test_each_step_of_publishing_waits_for_the_one_before(here: Path) -> None:
    Path("job.py").write_text(JOB)
    for text in ("first", "second"):  # into empty folders, and over the run's own results
        Path("input").write_text(text)
        trace = traced(here / "job.py")
        assert [p.read_text() for p in Path("out").glob("to-*/*/*")] == [text] * 6
        assert Path("out/failed/d.z").read_text() == text
        _check_names(trace, here / "out")
        _check_rescued(trace, here / "out")
        _check_journal(trace, here / "out/job.job/journal.jsonl", anew=text == "second")


def _check_names(trace: Trace, out: Path) -> None:
    records = trace.records(out / "job.job/journal.jsonl")
    named = [it for n in "xy" for it in trace.namings(out / f"to-{n}")]
    assert len(named) == 6
    for part, final, naming in named:
        task = Path(final).name[0]
        claims = [c for r, c in records if r["event"] == "publishing" and final in r["paths"]]
        (done,) = [c for r, c in records if (r["event"], r["task"]) == ("done", task)]
        flushed = trace.flushes(Path(final).parent)
        assert trace.flushed(part, before=naming), f"{final} may not be whole"
        journaled = trace.flushes(out / "job.job/journal.jsonl")
        assert any(c.before(f) and f.before(naming) for c in claims for f in journaled), (
            f"nobody knows whose {final} is"
        )
        assert any(naming.before(call) and call.before(done) for call in flushed), (
            f"{final} is said to be done, and its name is not on the disk"
        )


def _check_rescued(trace: Trace, out: Path) -> None:
    journal = out / "job.job/journal.jsonl"
    ((part, final, naming),) = trace.namings(out / "failed")
    claims = [c for r, c in trace.records(journal) if r["event"] == "rescued"]
    assert trace.flushed(part, before=naming), f"{final} may not be whole"
    flushes = trace.flushes(journal)
    assert any(c.before(f) and f.before(naming) for c in claims for f in flushes), (
        f"nobody knows whose {final} is"
    )
    assert any(naming.before(call) for call in trace.flushes(out / "failed"))


def _check_journal(trace: Trace, journal: Path, *, anew: bool) -> None:
    """``anew`` if there is an earlier journal, whose records must not be lost."""
    last = trace.records(journal)[-1][1]
    assert any(last.before(call) for call in trace.flushes(journal))
    named = [(old, call) for old, new, call in trace.namings(journal.parent) if new == str(journal)]
    assert len(named) == anew
    for old, call in named:
        assert trace.flushed(old, before=call), "an empty journal may take its place"
