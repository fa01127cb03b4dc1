"""Files of another user in a shared folder do no harm, and errors name them."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from strangers import STRANGER, as_root, scratch, stranger

import encamp
from encamp.attempt_facts import Published
from encamp.cli.command_line import cli
from encamp.errors import BadDestination, EncampError, NotOurs
from encamp.jobs.journal.journal import Journal
from encamp.jobs.journal.record import Record
from encamp.jobs.journal.run_lock import run_lock
from encamp.jobs.progress_interface import Silent
from encamp.jobs.prune import prune
from encamp.jobs.report.read_report import read_report
from encamp.jobs.run_lease import leases, new_lease
from encamp.reports import TaskReport
from encamp.storage.disk.path_to_destination import NAMED, Trust, named, opened
from encamp.storage.disk.temporary_names import discard_leftovers
from encamp.storage.disk.trusted_files import TrustedFolder
from encamp.storage.files_by_request import TaskFiles, WritePiece
from encamp.storage.inputs.send_inputs import digest_of_piece
from encamp.storage.local_storage import local_storage
from encamp.storage.outputs.accepted_names import DeclaredNames
from encamp.storage.outputs.deliveries import deliver_one
from encamp.storage.outputs.patterns import Output, bound, folders_of
from encamp.storage.outputs.sees_destination import Beacons, reaches
from encamp.storage.outputs.send_outputs import Piece
from encamp.storage.outputs.stage import stage, unstage
from encamp.storage.outputs.still_intact import intact
from encamp.storage.shared_folders import local

__all__ = ["scratch"]
TOKEN = "0123456789ab"


def _job() -> encamp.Job:
    job = encamp.Job("sums", to=".")
    job.add("one", "touch one.sum", outputs={"*.sum": "sums"})
    return job


def _written(folder: Path) -> None:
    with Journal(folder).writing():
        pass


# Folders of the owner's that the stranger has given the job's name


@as_root
def test_a_folder_that_others_may_write_to_is_no_jobs(scratch: Path) -> None:
    precious = scratch / "thesis"
    precious.mkdir()
    (precious / "ch1.tex").write_text("years of work")
    folder = scratch / "sums.job"
    folder.mkdir()
    folder.chmod(0o2775)
    record = {
        "event": "publishing",
        "task": "one",
        "time": 0.0,
        "paths": [str(precious / "ch1.tex")],
    }
    (folder / "journal.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(NotOurs, match="other users may write to it"):
        Journal(folder).read()
    with pytest.raises(NotOurs, match="other users may write to it"):
        _job().run()
    assert (precious / "ch1.tex").read_text() == "years of work"
    folder.chmod(0o755)
    (folder / "journal.jsonl").write_text("")
    assert _job().run().ok


def test_a_folder_with_files_that_are_no_jobs_is_left_alone(scratch: Path) -> None:
    folder = scratch / "sums.job"
    folder.mkdir()
    (folder / "report.html").write_text("a paper of the owner's")
    with pytest.raises(NotOurs, match="it contains files but no journal of a job"):
        _job().run()
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    assert (folder / "report.html").read_text() == "a paper of the owner's"


@as_root
def test_copied_files_follow_no_link_of_a_stranger(scratch: Path) -> None:
    from encamp.services.copy_files import take_over

    (scratch / "rc").write_text("KEEP")
    (scratch / "rc").chmod(0o600)
    stranger(f'ln -s "$PWD/rc" .f.txt.{os.getpid()}; ln -s "$PWD/rc" f.txt')
    there = scratch / "task"
    there.mkdir()
    (there / "f.txt").write_text("data")
    before = Path.cwd()
    os.chdir(there)
    try:
        assert take_over(["f.txt"], str(scratch)) == 1
    finally:
        os.chdir(before)
    assert (scratch / "rc").read_text() == "KEEP"
    assert (scratch / "f.txt").read_text() == "data"
    assert not (scratch / "f.txt").is_symlink()


# Files that the stranger has put there first


@as_root
@pytest.mark.parametrize(
    "script",
    [
        "mkdir sums.job",
        'mkdir home; ln -s "$PWD/home" sums.job',
        "mkdir -m 777 sums.job; touch sums.job/journal.jsonl",
        "touch sums.job",
    ],
)
def test_a_job_folder_of_a_stranger_is_refused(scratch: Path, script: str) -> None:
    stranger(script)
    for dry_run in (True, False):
        with pytest.raises(NotOurs, match=r"cannot use .*sums.job: it (is|belongs)"):
            _job().run(dry_run=dry_run)
    assert not (scratch / "sums").exists()


@as_root
@pytest.mark.parametrize("name", ["journal.jsonl", "lock", "logs", "report.json"])
@pytest.mark.parametrize("script", ['ln -s "$2" "$1"', 'mkfifo "$1"', 'echo "{}" > "$1"'])
def test_strangers_files_in_job_folder_are_refused_by_name(
    scratch: Path, name: str, script: str
) -> None:
    secret = scratch / "secret"
    secret.write_text("mine\n")
    secret.chmod(0o600)
    folder = scratch / "sums.job"
    folder.mkdir()
    folder.chmod(0o777)
    stranger(script, folder / name, secret)
    used = {"report.json": lambda: read_report(folder / name)}.get(name, lambda: _written(folder))
    with pytest.raises(NotOurs, match=name):
        used()
    assert secret.read_text() == "mine\n"


@as_root
def test_a_stranger_cannot_put_files_into_a_job_folder_that_a_run_has_used(scratch: Path) -> None:
    (scratch / "sums.job/logs").mkdir(parents=True)
    for folder in (scratch / "sums.job", scratch / "sums.job/logs"):
        folder.chmod(0o2777)
    with Journal(scratch / "sums.job").writing():
        pass
    for folder in (scratch / "sums.job", scratch / "sums.job/logs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2755


@as_root
def test_links_in_place_of_files_that_are_replaced_are_replaced_themselves(scratch: Path) -> None:
    mine = scratch / "mine"
    mine.write_text("mine")
    _job().run()
    folder = scratch / "sums.job"
    for name in ("MANIFEST", "report.html", "trace.json", "checked.json", "report.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine)
    _job().run(force=True)
    assert mine.read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert not list(folder.glob(".*.tmp"))


@as_root
def test_partial_files_of_killed_runs_are_removed_by_next(scratch: Path) -> None:
    with Journal(scratch / "sums.job").writing():
        pass
    left = scratch / f"sums.job/.journal.jsonl.{'0' * 16}.tmp"
    left.write_text("half")
    with Journal(scratch / "sums.job").writing():
        assert not left.exists()


# What is allowed


def test_root_may_run_a_job_in_the_folder_of_its_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has folders of others")
    (tmp_path / "sums.job").mkdir()
    for folder in (tmp_path, tmp_path / "sums.job"):
        os.chown(folder, STRANGER, STRANGER)
    (tmp_path / "sums.job/journal.jsonl").touch()
    os.chown(tmp_path / "sums.job/journal.jsonl", STRANGER, STRANGER)
    with Journal(tmp_path / "sums.job").writing():
        pass


@as_root
def test_files_of_root_are_accepted(scratch: Path) -> None:
    (scratch / "sums.job").mkdir()
    (scratch / "sums.job/journal.jsonl").touch()
    os.seteuid(STRANGER)
    try:
        Journal(scratch / "sums.job").read()
    finally:
        os.seteuid(0)


@as_root
def test_a_shared_job_is_its_groups_but_not_everybodys(scratch: Path) -> None:
    folder = scratch / "sums.job"
    stranger("mkdir -m 2775 sums.job; echo > sums.job/journal.jsonl")
    with pytest.raises(NotOurs):
        Journal(folder).read()
    with Journal(folder, shared=True).writing():
        pass
    assert stat.S_IMODE((folder / "journal.jsonl").stat().st_mode) == 0o664
    stranger('chmod o+w "$1"', folder)
    with pytest.raises(NotOurs, match="everybody may write"):
        Journal(folder, shared=True).read()


@as_root
def test_a_disk_that_shows_other_owners_is_asked_whom_it_shows(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger("mkdir -m 755 sums.job; touch sums.job/journal.jsonl")
    monkeypatch.setattr("encamp.storage.disk.trusted_files.uid_of_new_files", lambda _: STRANGER)
    Journal(scratch / "sums.job").read()
    assert os.listdir(scratch / "sums.job") == ["journal.jsonl"]


# Records


def _published(path: str) -> Published:
    return Published(path, 0, 0, "00")


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes sure that a path or URL is opened by nobody."""

    def watch(place: str) -> None:
        def refuse(asked: object) -> None:
            assert place not in str(asked), f"{place} was opened"

        from encamp.storage import urls

        monkeypatch.setattr(urls, "_opened", refuse)
        original = Path.stat

        def stat_of(path: Path, **options: bool) -> os.stat_result:
            refuse(path)
            return original(path, **options)

        monkeypatch.setattr(Path, "stat", stat_of)

    return watch


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("place", ["reference://x", "/etc/hostname", "{out}/sums/../../x.sum"])
def test_a_record_that_names_what_the_task_cannot_make_opens_nothing(
    here: Path, place: str, dry_run: bool, never_opened: Callable[[str], None]
) -> None:
    place = place.format(out=here)
    _job().run()
    file = here / "sums.job/journal.jsonl"
    *_, line = file.read_text().splitlines()
    record = json.loads(line)
    record["report"]["outputs"][0]["path"] = place
    file.write_text(json.dumps(record) + "\n")
    never_opened(place)
    report = _job().run(dry_run=dry_run)
    assert report["one"].state == ("to do" if dry_run else "done")
    assert "which it cannot make" in report["one"].why


def test_prune_removes_nothing_outside_of_the_destination(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "out/old.sum", tmp_path / "mine"
    with Journal(tmp_path / "out/sums.job").writing():
        for path in (mine, theirs):
            path.write_text("x")
    outputs = [
        replace(_published(str(path)), size=1, mtime_ns=path.stat().st_mtime_ns)
        for path in (mine, theirs)
    ]
    journal = Journal(tmp_path / "out/sums.job")
    with journal.writing():
        done = TaskReport("one", "done", outputs=[*outputs, _published("reference://x")])
        journal.write(Record("done", "one", 1.0, 1, {}, done), Record("left", "one", 2.0))
        assert prune(journal, tmp_path / "out", [], dry_run=False).removed == [str(mine)]
    assert theirs.exists()


def test_a_fifo_in_place_of_a_result_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one.sum")
    assert not intact(_published(str(tmp_path / "one.sum")))
    assert not intact(_published("a\0b"))


# Leases, beacons, parts


@as_root
def test_a_strangers_lease_is_none_and_a_part_has_an_owner(scratch: Path) -> None:
    folder = scratch / "sums.job"
    folder.mkdir()
    folder.chmod(0o777)
    lease = new_lease(str(folder), TOKEN)
    assert lease.take(TrustedFolder(folder)) == os.geteuid()
    stranger('echo "{}" > "$1/running-ba9876543210"; touch "$1/running-"', folder)
    assert [file.name for file, _ in leases(TrustedFolder(folder))] == [f"running-{TOKEN}"]
    stranger('touch "$1/.encamp-$2-theirs"', scratch, TOKEN)
    for name in (f".encamp-{TOKEN}-mine", ".encamp-other"):
        (scratch / name).touch()
    discard_leftovers([scratch], "", os.geteuid())
    discard_leftovers([scratch], TOKEN, os.geteuid())
    left = {path.name for path in scratch.glob(".encamp-*")}
    assert left == {f".encamp-{TOKEN}-theirs", ".encamp-other"}


@as_root
def test_a_faked_beacon_draws_nothing_to_a_strangers_folder(scratch: Path) -> None:
    near, far = scratch / "near", scratch / "far"
    near.mkdir()
    beacons = Beacons(TOKEN)
    beacons.put({near: NAMED})
    name = f".encamp-{TOKEN}-beacon"
    with pytest.raises(Exception, match="returned non-zero exit status"):
        stranger('cat "$1"', near / name)
    stranger('mkdir -m 777 far; echo \'{"owner": {}, "proof": "00"}\' > "far/$1"', name)
    assert reaches(str(near), beacons.description)
    assert not reaches(str(far), beacons.description)
    beacons.close()


@as_root
@pytest.mark.parametrize(
    "script", ['rm "$1"; printf x > "$1"', 'printf x > "$1"', 'rm "$1"; ln -s /etc/hostname "$1"']
)
def test_a_part_that_another_has_written_is_not_published(scratch: Path, script: str) -> None:
    folder = local_storage() / "task"
    folder.mkdir()
    (folder / "a").write_text("a")
    (folder / "a").chmod(0o666)
    out = scratch / "out"
    out.mkdir()
    out.chmod(0o777)
    (staged,) = stage(folder, [Output("a")], out, token=TOKEN, task="task")
    stranger(script, local(staged.part))
    with pytest.raises(BadDestination, match="was changed"):
        deliver_one([staged])
    assert not (out / "a").exists()
    unstage([staged])


def test_private_outputs_stay_private_while_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def seen(fd: int, mode: int, path: Path | str) -> None:
        modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        os.fchmod(fd, mode)

    monkeypatch.setattr("encamp.storage.outputs.stage.set_permissions", seen)
    folder = local_storage() / "task"
    folder.mkdir()
    for name, mode in (("private", 0o600), ("public", 0o644)):
        (folder / name).write_text("x")
        (folder / name).chmod(mode)
    staged = stage(folder, [Output("*")], tmp_path, token=TOKEN, task="task")
    deliver_one(staged)
    assert modes == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


# Folders of the destination


def _elsewhere(scratch: Path) -> Path:
    """A folder of the owner's to which no result belongs."""
    folder = scratch / "mine"
    folder.mkdir()
    return folder


@as_root
@pytest.mark.parametrize(
    "script",
    ['ln -s "$1" out/sums', "mkdir -m 777 out/sums", 'mkdir out/sums; ln -s "$1" out/sums/deep'],
)
def test_a_strangers_link_or_folder_on_the_way_to_results_is_refused_before_the_run(
    scratch: Path, script: str
) -> None:
    mine, out = _elsewhere(scratch), scratch / "out"
    out.mkdir()
    out.chmod(0o777)
    stranger(script, mine)
    job = encamp.Job("sums", to="out")
    job.add("one", "touch one.sum", outputs={"*.sum": "sums/deep"})
    for dry_run in (True, False):
        with pytest.raises(BadDestination, match="of the user nobody"):
            job.run(dry_run=dry_run)
    assert not list(mine.iterdir())


@as_root
@pytest.mark.parametrize("to", ["closed", "closed/sub", "{scratch}/closed/sub"])
def test_a_folder_that_this_user_cannot_look_at_is_no_traceback(scratch: Path, to: str) -> None:
    (scratch / "closed/sub").mkdir(parents=True)
    (scratch / "closed").chmod(0o700)
    to = to.format(scratch=scratch)
    os.seteuid(STRANGER)
    try:
        assert named(scratch, to) == scratch / to
        with suppress(BadDestination):
            assert bound([Output("*.sum", to)], scratch)[0].at == str(scratch / to)
    finally:
        os.seteuid(0)


@as_root
def test_a_strangers_link_in_place_of_the_destination_is_refused(scratch: Path) -> None:
    mine = _elsewhere(scratch)
    stranger('ln -s "$1" out', mine)
    job = encamp.Job("sums", to="out")
    job.add("one", "touch one.sum", outputs="*.sum")
    with pytest.raises(BadDestination, match="is a symlink of the user nobody"):
        job.run()
    with pytest.raises(BadDestination, match="is a symlink"), encamp.sandbox(to="out"):
        pass
    assert not list(mine.iterdir())
    job = encamp.Job("sums", to=scratch / "out")  # by its whole path: whoever made the link
    job.add("one", "touch one.sum", outputs="*.sum")
    job.run()
    assert (mine / "one.sum").exists()


@as_root
def test_report_does_not_follow_link_replacing_destination(
    scratch: Path,
) -> None:
    mine, out = _elsewhere(scratch), scratch / "out"
    scratch.chmod(0o777)

    class Swapping(Silent):
        def began(self, job: str, total: int, workers: int | None) -> None:
            stranger('mv "$1" "$1.was"; ln -s "$2" "$1"', out, mine)

    job = encamp.Job("sums", to="out")
    job.add("one", "touch one.sum", outputs="*.sum")
    with pytest.raises(BadDestination, match="is a symlink of the user nobody"):
        job.run(progress=Swapping())
    assert not list(mine.iterdir())


@as_root
@pytest.mark.parametrize("moment", ["before it is staged", "before it is published"])
@pytest.mark.parametrize("pattern", ["one.sum", "deep/**"])
def test_link_created_during_task_is_not_followed(scratch: Path, moment: str, pattern: str) -> None:
    mine, out, folder = _elsewhere(scratch), scratch / "out", local_storage() / "task"
    (folder / "deep/er").mkdir(parents=True)
    for name in ("one.sum", "deep/one.sum", "deep/er/one.sum"):
        (folder / name).write_text("x")
    (out / "sums/er").mkdir(parents=True)
    for place in (out, out / "sums"):
        place.chmod(0o777)
    outputs = bound([Output(pattern, "sums")], out)
    swap = 'mv "$1/sums" "$1/was"; ln -s "$2" "$1/sums"'
    if moment == "before it is staged":
        stranger(swap, out, mine)
        with pytest.raises(BadDestination, match="is a symlink of the user nobody"):
            stage(folder, outputs, out, token=TOKEN, task="task")
    else:
        staged = stage(folder, outputs, out, token=TOKEN, task="task")
        stranger(swap, out, mine)
        shutil.copytree(out / "was", mine, dirs_exist_ok=True)
        with pytest.raises(BadDestination, match="is a symlink of the user nobody"):
            deliver_one(staged)
        unstage(staged)
    assert not list(mine.rglob("*.sum"))


@as_root
def test_sent_outputs_do_not_follow_strangers_link(scratch: Path) -> None:
    mine, out = _elsewhere(scratch), scratch / "out"
    out.mkdir()
    out.chmod(0o777)
    (output,) = bound([Output("a", "sums")], out)
    stranger('ln -s "$1" out/sums', mine)
    assert output.at is not None
    piece = Piece(output.at, "deep/a", TOKEN, 0, b"x", digest_of_piece(b"x"), 0o600, size=1)
    files = TaskFiles((), [output])
    with pytest.raises(BadDestination, match="is a symlink of the user nobody"):
        files.answer(WritePiece(piece))
    with closing(Beacons(TOKEN)) as beacons:
        beacons.put(folders_of([output]))
    assert not list(mine.iterdir())


@as_root
def test_symlink_of_other_user_is_neither_followed_for_removal_nor_for_checks(
    scratch: Path,
) -> None:
    mine, out = _elsewhere(scratch), scratch / "out"
    (out / "sums").mkdir(parents=True)
    out.chmod(0o777)
    job = encamp.Job("sums", to="out")
    for name in ("one", "two"):
        job.add(name, encamp.command(f"echo x > {name}.sum", shell=True), outputs={"*.sum": "sums"})
    job.run()
    for file in (out / "sums").iterdir():
        shutil.copy2(file, mine)
    stranger('mv out/sums out/was; ln -s "$1" out/sums', mine)
    journal = Journal(out / "sums.job")
    del job.tasks["two"]
    with journal.writing():
        journal.note_tasks(job.tasks)
        assert prune(journal, out, [], dry_run=False).removed == []
    assert sorted(file.name for file in mine.iterdir()) == ["one.sum", "two.sum"]
    assert not intact(_published(str(out / "sums/one.sum")))


@as_root
def test_links_of_the_owner_are_followed(scratch: Path) -> None:
    big = scratch / "big"
    (big / "deep").mkdir(parents=True)
    (scratch / "sums").symlink_to("big")
    job = encamp.Job("sums", to=".")
    make = encamp.command("mkdir -p deep new; touch deep/one.sum new/one.sum", shell=True)
    job.add("one", make, outputs=[Output("deep", "sums"), Output("new/**", "sums/new")])
    job.run()
    assert {str(file.relative_to(big)) for file in big.rglob("*.sum")} == {
        "deep/one.sum",
        "new/one.sum",
    }
    assert job.run()["one"].state == "up to date"


@as_root
def test_a_group_trusts_links_and_folders_of_its_members_where_not_everybody_may_put_them(
    scratch: Path,
) -> None:
    mine, out = _elsewhere(scratch), scratch / "out"
    out.mkdir()
    os.chown(out, 0, STRANGER)
    out.chmod(0o2775)
    stranger('mkdir -m 775 out/sums; ln -s "$1" out/link', mine)
    for name in ("sums", "link"):
        with opened(out / name, Trust(1, shared=True)):
            pass
        with pytest.raises(BadDestination), opened(out / name, Trust(1)):
            pass
    out.chmod(0o2777)
    for name in ("sums", "link"):
        with pytest.raises(BadDestination), opened(out / name, Trust(1, shared=True)):
            pass


# Final names


@pytest.mark.parametrize(
    ("output", "good", "bad"),
    [
        (Output("*.sum", "sums"), ["sums/a.sum", "sums/a.sum/below"], ["a.sum", "sums/a.txt"]),
        (Output("a/**/*.txt", "t"), ["t/x.txt", "t/b/x.txt"], ["t/../x.txt", "x.txt", "t/x.csv"]),
        (Output("x", "t", rename="{name}.old"), ["t/x.old"], ["u/x.old"]),
        (Output("run[1].dat"), ["run[1].dat", "run1.dat"], ["run2.dat"]),
    ],
)
def test_only_names_matching_declared_outputs_are_trusted(
    tmp_path: Path, output: Output, good: list[str], bad: list[str]
) -> None:
    declared = DeclaredNames(tmp_path, [output])
    assert [declared.allow([output], f"{tmp_path}/{name}") for name in good] == [True] * len(good)
    assert [declared.allow([output], f"{tmp_path}/{name}") for name in bad] == [False] * len(bad)
    for name in ("", "\0", "relative", "/" + "x/" * 3000, "reference://x", f"{tmp_path}/a\0.sum"):
        assert not declared.allow([output], name)
        assert not declared.may_be_published(name)


@as_root
def test_the_command_says_it_in_a_sentence(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger("mkdir sums.job; touch sums.job/journal.jsonl")
    for command in ("status", "prune"):
        with pytest.raises(NotOurs) as caught:
            cli.main([command, "."], standalone_mode=False)
        assert "belongs to the user" in str(caught.value)
        assert isinstance(caught.value, EncampError)


@as_root
def test_strangers_job_does_not_prevent_pruning(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _job()
    job.run()
    stranger("mkdir evil.job; mkfifo evil.job/journal.jsonl")
    job.tasks.clear()
    job.add("two", "touch two.sum", outputs={"*.sum": "sums"})
    job.run()
    cli.main(["prune", "."], standalone_mode=False)
    output = capsys.readouterr().out
    assert "evil.job: it belongs to the user nobody" in output
    assert "sums/one.sum" in output
    assert [file.name for file in (scratch / "sums").iterdir()] == ["two.sum"]


@as_root
def test_two_runs_keep_off_each_other_whatever_a_stranger_made(scratch: Path) -> None:
    (scratch / "sums.job").mkdir()
    (scratch / "sums.job").chmod(0o777)
    stranger('ln -s "$PWD/elsewhere" sums.job/lock')
    own = TrustedFolder(scratch / "sums.job")
    with pytest.raises(NotOurs, match="lock"), own.opened() as files, run_lock(own, files):
        pass
    assert not (scratch / "elsewhere").exists()


def _files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@as_root
def test_folder_replacing_job_folder_gets_nothing(
    scratch: Path,
) -> None:
    scratch.chmod(0o777)
    other = encamp.Job("other", to=".")
    other.add("two", "touch two.sum", outputs={"*.sum": "sums"})
    other.run()
    before = _files_of(Path("other.job"))

    class Swapping(Silent):
        def began(self, job: str, total: int, workers: int | None) -> None:
            stranger("mv sums.job was; mv other.job sums.job")

    with pytest.raises(NotOurs, match="a different folder has replaced it since the run began"):
        _job().run(progress=Swapping())
    assert _files_of(Path("sums.job")) == before
    assert sorted(file.name for file in Path("sums.job/logs").iterdir()) == []
    assert not Path("sums/one.sum").exists()
    shutil.move("sums.job", "other.job")
    shutil.move("was", "sums.job")
    assert _job().run().count("done") == 1


@as_root
def test_strangers_job_does_not_hide_tasks(
    scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _job().run()
    stranger("mkdir a.job; echo {} > a.job/report.json; echo > a.job/journal.jsonl")
    stranger("mkdir z.job; mkfifo z.job/journal.jsonl")
    cli.main(["show", ".", "one"], standalone_mode=False)
    output = capsys.readouterr().out
    assert "one of the job sums: done" in output
    assert "a.job: it belongs to the user nobody" in output
    assert "z.job: it belongs to the user nobody" in output
    with pytest.raises(NotOurs, match="belongs to the user nobody"):
        cli.main(["show", ".", "none"], standalone_mode=False)


@as_root
def test_strangers_private_job_folder_is_reported_with_owner(scratch: Path) -> None:
    stranger("mkdir -m 700 sums.job")
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)
        try:
            with TrustedFolder(scratch / "sums.job").opened(make=True):
                os._exit(1)
        except NotOurs as exc:
            os._exit(0 if "it belongs to the user nobody" in str(exc) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
