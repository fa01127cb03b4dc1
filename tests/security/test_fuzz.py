"""Ten thousand broken journals, leases, beacons, reports and parts: no hang, no traceback.

Everything runs in this process, on a few files that are written anew for each case.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encamp.attempt_facts import Published
from encamp.errors import EncampError
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.journal_file import NAME
from encamp.jobs.plan.orphans import orphans
from encamp.jobs.report.keep_report import last_check
from encamp.jobs.report.read_report import read_report
from encamp.jobs.run_lease import PREFIX, leases
from encamp.reports import JobReport, TaskReport
from encamp.storage.disk.temporary_names import (
    Written,
    discard_leftovers,
    discard_noted,
    is_token,
)
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.outputs.publish import names_to_take, staged_by
from encamp.storage.outputs.sees_destination import Beacons, _remove_dead, reaches
from encamp.storage.outputs.stage import Staged
from encamp.storage.outputs.still_intact import intact
from encamp.storage.process_identity import facts_in, this_process

TOKEN = "0123456789ab"
ROUNDS, EACH = 40, 50
"""Two thousand cases of each kind: hypothesis draws what fifty cases are made from."""
CASES = settings(
    max_examples=ROUNDS,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SEEDS = st.integers(0, 2**32).map(lambda seed: [Random(seed + n) for n in range(EACH)])
VALUES = (None, True, 0, -1, 10**400, 2**63, 1e308, 0.5, "", "\0", "\x00hex:zz", "\x00hex:ff",
          "../x", "/etc/hostname", "reference://x", [], {}, [[]], {"a": []}, [None, 1])  # fmt: skip
BYTES = (b"", b"\0" * 64, b"[" * 5000, b'{"a":' * 5000, b"1" * 5000, b"\xff\xfe", b"null", b"[]")
DONE = TaskReport("a", "done", outputs=[Published("/d/a", 1, 1, "00")])
REPORT = msgspec.to_builtins(
    JobReport("j", "/d", "/d/j.job", 1.0, 2.0, "c", "e", "1", False, [DONE])
)
RECORD = {"event": "done", "task": "a", "time": 1.0, "attempt": 1, "key": {"code": "1"},
          "report": msgspec.to_builtins(DONE), "paths": ["/d/a"], "files": []}  # fmt: skip
EVENTS = ("done", "submitted", "publishing", "rescued", "earlier", "pruned", "left", "joined", "?")
NAMES = ("", ".encamp-", f".encamp-{TOKEN}", f".encamp-{TOKEN}-1", "x", "..", "a\0b", "-beacon")


def changed(good: dict[str, Any], dice: Random) -> bytes:
    """Bytes that begin as something good, of which some values, or all bytes, are others."""
    if dice.random() < 0.2:
        return dice.choice((*BYTES, dice.randbytes(dice.randrange(40))))
    value = json.loads(json.dumps(good))
    for _ in range(dice.randrange(4)):
        _change(value, dice)
    data = json.dumps(value).encode()
    return data[: dice.randrange(len(data))] if dice.random() < 0.2 else data


def _change(value: Any, dice: Random) -> None:
    """Change something, somewhere inside."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = dice.choice(keys)
    if isinstance(value[key], dict | list) and dice.random() < 0.6:
        _change(value[key], dice)
    elif dice.random() < 0.2 and isinstance(value, dict):
        del value[key]
    else:
        value[key] = deepcopy(dice.choice(VALUES))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A job's folder, beside a file that nobody may touch."""
    top = tmp_path_factory.mktemp("fuzz")
    (top / "mine").write_text("mine")
    before = (top / "mine").stat()
    folder = top / "out/j.job"
    folder.mkdir(parents=True)
    yield folder
    after = (top / "mine").stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert sorted(path.name for path in top.iterdir()) == ["mine", "out"]


@CASES
@given(SEEDS)
def test_any_journal_is_read(place: Path, seeds: list[Random]) -> None:
    for dice in seeds:
        lines = [changed({**RECORD, "event": dice.choice(EVENTS)}, dice) for _ in range(3)]
        (place / NAME).write_bytes(b"\n".join(lines) + b"\n")
        journal = Journal(place)
        journal.read()
        for orphan in orphans(journal).values():
            assert orphan.path.startswith(f"{place.parent}/")
            assert orphan.gone in (True, False)
        for task in journal.current():
            record = journal.done.get(task)  # None: it cannot be read
            for output in record.report.outputs if record and record.report else ():
                if journal.may_have_published(output.path):
                    intact(output)


@CASES
@given(SEEDS)
def test_any_lease_is_read(place: Path, seeds: list[Random]) -> None:
    for dice in seeds:
        length = dice.choice((0, 1, 11, 12, 12, 12, 13))
        token = "".join(dice.choices("0123456789abcdefg-.", k=length))
        names = {f"{PREFIX}{TOKEN}", f"{PREFIX}{token}"}
        for name in names:
            (place / name).write_bytes(changed(this_process().as_dict(), dice))
        found = leases(TrustedFolder(place))
        good = {name for name in names if is_token(name.removeprefix(PREFIX))}
        assert {file.name for file, _ in found} == good
        for _, facts in found:
            assert facts is None or facts.known_dead in (True, False)
        for name in names:
            (place / name).unlink()


@CASES
@given(SEEDS)
def test_any_beacon_is_read(place: Path, seeds: list[Random]) -> None:
    beacon = place / f".encamp-{TOKEN}-beacon"
    for dice in seeds:
        data = changed({"owner": this_process().as_dict(), "proof": "00"}, dice)
        beacon.write_bytes(data)
        assert not reaches(str(place), Beacons(TOKEN).description)
        proof = dice.choice(("", "00", "\0", "x" * 32))
        assert reaches(str(place), f"{TOKEN}:{proof}") in (True, False)
        _remove_dead(place, os.geteuid())
        facts_in(data)
    beacon.unlink(missing_ok=True)


@CASES
@given(SEEDS)
def test_any_report_is_read_or_refused(place: Path, seeds: list[Random]) -> None:
    for dice in seeds:
        for name in ("report.json", "checked.json"):
            (place / name).write_bytes(changed(REPORT, dice))
        with suppress(EncampError):
            read_report(place / "report.json")
        last_check(place)


@CASES
@given(SEEDS)
def test_any_part_that_is_not_as_written_is_refused(place: Path, seeds: list[Random]) -> None:
    parts = place / "parts"
    parts.mkdir(exist_ok=True)
    for dice in seeds:
        part, final, size = dice.choice(NAMES), dice.choice(NAMES), dice.randrange(-1, 3)
        with suppress(OSError, ValueError):
            (parts / part).write_bytes(b"x")
        names = f"{parts}/{part}", f"{parts}/{final}"
        staged = Staged("x", *names, size, "00", written=Written(0, 1, 2))
        assert staged_by(staged, TOKEN) == part.startswith(f".encamp-{TOKEN}")
        if "\0" not in part + final:
            with pytest.raises(EncampError):
                names_to_take([staged], ())
            discard_noted(parts / f"{part}-beacon")
        discard_leftovers([parts], dice.choice(("", TOKEN, "0", "..", "*", "\0")), os.geteuid())
        for path in parts.iterdir():
            path.unlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize("name", [NAME, "report.json", "lock", f"{PREFIX}{TOKEN}"])
def test_special_files_are_never_waited_for(
    tmp_path: Path, make: Callable[[str], None], name: str
) -> None:
    place = tmp_path / "out/j.job"
    place.mkdir(parents=True)
    make(str(place / name))
    with suppress(EncampError):
        Journal(place).read()
    with suppress(EncampError):
        read_report(place / "report.json")
    with suppress(EncampError), Journal(place).writing():
        pass
    assert leases(TrustedFolder(place)) == []
