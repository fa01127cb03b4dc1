"""Mirror maps: matches, errors, and targets in the task's folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
from pathlib import Path

import pytest
from other_processes import open_folder, unprivileged

from encamp.errors import BadJob, NoMatch, TargetConflict, UnsafeTarget, UnusableInput
from encamp.storage.inputs.mirror import Mirror, MirrorMap, Planner, as_mirrors, plan
from encamp.storage.local_storage import local_storage
from encamp.storage.sandbox_folder import Sandbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task's folder, empty."""
    path = tmp_path / "task folder"
    path.mkdir()
    return path


def write(base: Path, *names: str) -> None:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {os.fsencode(name)!r}")


def mirrored(spec: MirrorMap, here: Path, folder: Path) -> list[str]:
    """Mirror, and copy what is in the task's folder then, also after an error, to ``folder``."""
    sandbox = Sandbox("test")
    try:
        sandbox.place(plan(as_mirrors(spec), here))
    finally:
        shutil.copytree(sandbox.folder, folder, symlinks=True, dirs_exist_ok=True)
        sandbox.remove()
    return below(folder)


def below(folder: Path) -> list[str]:
    """Files and links below a folder."""
    found = []
    for at, folders, names in os.walk(folder):
        links = [name for name in folders if Path(at, name).is_symlink()]
        found += [str(Path(at, name).relative_to(folder)) for name in [*names, *links]]
    return sorted(found)


def test_map_assigns_folders_to_patterns(here: Path, folder: Path) -> None:
    write(here, "a.txt", "b.txt", "model.lib")
    found = mirrored({"*.txt": "in/texts", "model.lib": "."}, here, folder)
    assert found == ["in/texts/a.txt", "in/texts/b.txt", "model.lib"]
    assert (folder / "in/texts/a.txt").read_text() == (here / "a.txt").read_text()


def test_all_forms_of_a_map_mean_the_same() -> None:
    wanted = (Mirror("a"),)
    forms: list[MirrorMap] = ["a", Mirror("a"), ["a"], [Mirror("a")], {"a": "."}]
    for spec in forms:
        assert as_mirrors(spec) == wanted


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a.txt", "b.dat", "deep"]),
        ("?.txt", ["a.txt"]),
        ("[ab].*", ["a.txt", "b.dat"]),
        ("[!a].*", ["b.dat"]),
        (".*", [".hidden"]),
        ("deep/*", ["deep/.x", "deep/c.txt"]),
    ],
)
def test_globs_leave_hidden_files_unless_asked_for(
    pattern: str, expected: list[str], here: Path
) -> None:
    write(here, "a.txt", "b.dat", ".hidden", "deep/c.txt", "deep/.x")
    names = [item.target for item in plan([Mirror(pattern)], here)]
    assert sorted(names) == [Path(n).name for n in expected if n != "deep/.x"]


def test_two_stars_keep_the_folders_that_they_stand_for(here: Path, folder: Path) -> None:
    write(here, "data/a.las", "data/x/b.las", "data/x/y/c.las", "data/x/c.txt", "data/.h/d.las")
    found = mirrored({"data/**/*.las": "in"}, here, folder)
    assert found == ["in/a.las", "in/x/b.las", "in/x/y/c.las"]


def test_two_stars_keep_folders_also_after_another_glob(here: Path, folder: Path) -> None:
    write(here, "run1/x/a", "run2/y/b", "run2/c")
    assert mirrored("run*/**", here, folder) == ["c", "x/a", "y/b"]


def test_double_star_keeps_folders_of_absolute_or_dotted_pattern(here: Path, folder: Path) -> None:
    write(here, "top/x/a")
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    assert mirrored(f"{here}/top/**", here, folder / "one") == ["x/a"]
    assert mirrored("top/../top/./**/a", here, folder / "two") == ["x/a"]


def test_two_stars_do_not_follow_symlinks_to_folders(here: Path, folder: Path) -> None:
    write(here, "data/real/a")
    (here / "data/loop").symlink_to(".")
    (here / "data/again").symlink_to("real")
    assert mirrored("data/**", here, folder) == ["real/a"]


def test_folders_are_mirrored_as_trees_with_their_symlinks(here: Path, folder: Path) -> None:
    write(here, "tree/a", "tree/.hidden", "tree/deep/b")
    (here / "tree/empty").mkdir()
    targets = {
        "to file": "a",
        "to folder": "deep",
        "deep/up": "../a",
        "broken": "no-such",
        "nowhere": "/no/such",
        "device": "/dev/null",
        "itself": "itself",
    }
    for link, target in targets.items():
        (here / "tree" / link).symlink_to(target)
    mirrored("tree", here, folder)
    assert {link: os.readlink(folder / "tree" / link) for link in targets} == targets
    assert (folder / "tree/deep/b").read_text() == (here / "tree/deep/b").read_text()
    assert (folder / "tree/.hidden").is_file()
    assert (folder / "tree/empty").is_dir()


@pytest.mark.parametrize("absolute", [False, True])
def test_symlinks_out_of_tree_become_their_targets(
    here: Path, folder: Path, absolute: bool
) -> None:
    write(here, "tree/a", "outside", "far/x", "far/in/y", "farther/z", "tree/deep/b")
    above = str(here) if absolute else ".."
    (here / "tree/file").symlink_to(f"{above}/outside")
    (here / "tree/deep/folder").symlink_to(f"{above if absolute else '../..'}/far")
    (here / "tree/over").symlink_to(f"{above}/tree/a")  # leads out and in again
    (here / "far/near").symlink_to("x")
    (here / "far/in/on").symlink_to(f"{above if absolute else '../..'}/farther")
    got = mirrored("tree", here, folder)
    assert got == [
        "tree/a",
        "tree/deep/b",
        "tree/deep/folder/in/on/z",
        "tree/deep/folder/in/y",
        "tree/deep/folder/near",
        "tree/deep/folder/x",
        "tree/file",
        "tree/over",
    ]
    links = [name for name in got if (folder / name).is_symlink()]
    assert links == ["tree/deep/folder/near"]
    assert (folder / "tree/deep/folder/near").read_text() == (here / "far/x").read_text()
    for name in ("tree/file", "tree/deep/folder/x"):
        (folder / name).write_text("changed by the task")
    for name in ("outside", "far/x"):
        assert (here / name).read_text().startswith("content of")


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("tree/deep/up", "../../tree"),
        ("tree/top", ".."),
        ("far/back", "{here}/tree"),
        ("far/itself", "../far"),
    ],
)
def test_a_symlink_to_a_folder_that_it_is_in_stays_one(
    here: Path, folder: Path, link: str, target: str
) -> None:
    write(here, "tree/deep/b", "far/x")
    (here / "tree/out").symlink_to("../far")
    (here / link).symlink_to(target.format(here=here))
    assert mirrored("tree", here, folder) == sorted(
        ["tree/deep/b", "tree/out/x", link.replace("far/", "tree/out/")]
    )


def test_a_symlink_to_a_file_is_mirrored_as_the_file(here: Path, folder: Path) -> None:
    write(here, "real")
    (here / "link").symlink_to("real")
    mirrored("link", here, folder)
    assert not (folder / "link").is_symlink()
    assert (folder / "link").read_text() == (here / "real").read_text()


def test_a_symlink_to_a_folder_is_mirrored_as_the_tree(here: Path, folder: Path) -> None:
    write(here, "real/a")
    (here / "link").symlink_to("real")
    assert mirrored("link", here, folder) == ["link/a"]
    assert not (folder / "link").is_symlink()


def test_renaming_uses_parts_of_the_old_name(here: Path, folder: Path) -> None:
    write(here, "a.tar.gz", "b.txt")
    spec = Mirror("*.*", to="in", rename="new-{stem}-of-{name}{suffix}")
    assert mirrored(spec, here, folder) == ["in/new-a.tar-of-a.tar.gz.gz", "in/new-b-of-b.txt.txt"]


def test_a_tree_can_be_renamed(here: Path, folder: Path) -> None:
    write(here, "tree/a")
    assert mirrored(Mirror("tree", rename="other"), here, folder) == ["other/a"]


@pytest.mark.parametrize("bad", ["{nme}", "{", "{0}", "{name.no}"])
def test_a_bad_new_name_says_what_may_be_in_it(bad: str, here: Path) -> None:
    write(here, "a")
    with pytest.raises(BadJob, match="can contain only"):
        plan([Mirror("a", rename=bad)], here)


@pytest.mark.parametrize("bad", ["../x", "/x", "a/b", "..", ".", ""])
def test_a_new_name_that_is_none_is_refused(bad: str, here: Path) -> None:
    write(here, "a")
    with pytest.raises(UnsafeTarget):
        plan([Mirror("a", rename=bad)], here)


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (("*.bak",), ["tree/a", "tree/tmp/c", "tree/x/tmp/d"]),
        (("tmp",), ["tree/a", "tree/b.bak"]),
        (("tmp/",), ["tree/a", "tree/b.bak"]),
        (("tmp/*",), ["tree/a", "tree/b.bak", "tree/x/tmp/d"]),
        (("x/tmp",), ["tree/a", "tree/b.bak", "tree/tmp/c"]),
        ("*.bak", ["tree/a", "tree/tmp/c", "tree/x/tmp/d"]),
    ],
)
def test_names_and_paths_can_be_excluded_from_trees_and_from_two_stars(
    exclude: tuple[str, ...], expected: list[str], here: Path, folder: Path
) -> None:
    write(here, "tree/a", "tree/b.bak", "tree/tmp/c", "tree/x/tmp/d")
    assert mirrored(Mirror("tree", exclude=exclude), here, folder) == expected
    (folder / "two stars").mkdir()
    stars = mirrored(Mirror("tree/**", exclude=exclude), here, folder / "two stars")
    assert [f"tree/{name}" for name in stars] == expected


def test_an_excluded_folder_is_not_even_read(here: Path, folder: Path) -> None:
    write(here, "tree/a")
    os.mkfifo(here / "tree/pipe")
    assert mirrored(Mirror("tree", exclude=("pipe",)), here, folder) == ["tree/a"]


def test_error_explains_why_matches_do_not_count(here: Path) -> None:
    for name in ("out/a.txt", "kept/b.dat", "deep/folder/c"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    reasons = {
        Mirror("*/*.txt"): "its matches are in the job's destination, which is searched only",
        Mirror("kept/*", exclude=("*.dat",)): "all its matches are excluded; check",
        Mirror("**/folder"): "it matches folders, but '**' is for files; check",
    }
    for mirror, why in reasons.items():
        with pytest.raises(NoMatch) as caught:
            Planner(here, [here / "out"]).plan([mirror])
        assert f" in {here}: {why}" in str(caught.value)


def test_a_pattern_without_a_match_is_an_error_unless_not_required(here: Path) -> None:
    with pytest.raises(NoMatch) as caught:
        plan([Mirror("*.las")], here)
    assert "*.las" in str(caught.value)
    assert plan([Mirror("*.las", required=False)], here) == []


def test_a_pattern_whose_matches_are_all_excluded_has_none(here: Path) -> None:
    write(here, "a.bak")
    with pytest.raises(NoMatch):
        plan([Mirror("*", exclude=("*.bak",))], here)


@pytest.mark.parametrize("pattern", ["", "a\0b"])
def test_impossible_paths_are_refused(pattern: str, here: Path) -> None:
    with pytest.raises(BadJob):
        plan([Mirror(pattern)], here)


NAMES = [
    "a[1].txt",
    "with space",
    "new\nline",
    "-rf",
    "--help",
    "*",
    "what?",
    "{brace}",
    "back\\slash",
    "'quote\"",
    "~tilde",
    "ünï",
    os.fsdecode(b"not-utf-8-\xff\xfe"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_exists_is_taken_as_it_is(name: str, here: Path, folder: Path) -> None:
    write(here, name)
    assert mirrored(name, here, folder) == [name]
    assert (folder / name).read_bytes() == (here / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "other"), [("*.las", "1.las"), ("*", "a"), ("a[1].txt", "a1.txt"), ("**", "x/a")]
)
def test_a_name_that_matches_more_is_refused_with_the_way_out(
    name: str, other: str, here: Path, folder: Path
) -> None:
    write(here, name, other)
    with pytest.raises(BadJob, match="is the name of a file, but matches") as caught:
        plan(as_mirrors(name), here)
    escaped = re.search("write '(.*)' for that file alone", str(caught.value))
    assert escaped is not None
    assert mirrored(escaped[1], here, folder) == [name]


def test_all_these_names_are_found_by_globs_and_in_trees(here: Path, folder: Path) -> None:
    write(here, *(f"tree/{name}" for name in NAMES))
    assert mirrored("tree/?*", here, folder) == sorted(NAMES)
    mirrored("tree", here, folder)
    assert below(folder / "tree") == sorted(NAMES)


def test_two_sources_for_one_target_are_refused_by_name(here: Path) -> None:
    write(here, "x/a", "y/a")
    with pytest.raises(TargetConflict) as caught:
        plan(as_mirrors({"x/a": "in", "y/a": "./in/"}), here)
    assert str(here / "x/a") in str(caught.value)
    assert str(here / "y/a") in str(caught.value)


def test_same_source_twice_is_no_conflict(here: Path) -> None:
    write(here, "a.txt")
    assert len(plan(as_mirrors(["a.txt", "*.txt"]), here)) == 1


def test_a_file_in_a_tree_and_another_for_its_place_are_refused(here: Path, folder: Path) -> None:
    write(here, "tree/a", "other/a")
    with pytest.raises(TargetConflict):
        mirrored({"tree": ".", "other/a": "tree"}, here, folder)
    assert (folder / "tree/a").read_text() == (here / "tree/a").read_text()


@pytest.mark.parametrize(
    "target", ["..", "../x", "a/../../b", "/etc", "//etc", "~", "~root/x", "a/..", "a\0b"]
)
def test_a_target_that_leaves_the_folder_is_refused(target: str, here: Path) -> None:
    write(here, "a")
    with pytest.raises(UnsafeTarget) as caught:
        plan([Mirror("a", to=target)], here)
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize("target", ["..", "deep", "/tmp"])
def test_a_target_through_a_mirrored_symlink_is_refused(
    target: str, here: Path, folder: Path
) -> None:
    write(here, "tree/deep/x", "a")
    (here / "tree/way").symlink_to(target)
    with pytest.raises(UnsafeTarget, match="symlink"):
        mirrored({"tree": ".", "a": "tree/way"}, here, folder)
    assert not (folder / "a").exists()


def test_a_target_that_is_a_mirrored_symlink_is_refused(here: Path, folder: Path) -> None:
    write(here, "tree/x", "a", "precious")
    (here / "tree/way").symlink_to(here / "precious")
    with pytest.raises(TargetConflict):
        mirrored([Mirror("tree"), Mirror("a", to="tree", rename="way")], here, folder)
    assert "precious" in (here / "precious").read_text()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # its address must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


def make_device(path: Path) -> None:
    if os.geteuid():
        pytest.skip("making a device needs root")
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


@pytest.mark.parametrize("make", [make_fifo, make_socket, make_device])
@pytest.mark.parametrize("pattern", ["x", "*", "../work"])
def test_special_files_are_refused_and_never_opened(
    make: type[object], pattern: str, here: Path
) -> None:
    make(here / "x")  # type: ignore[call-arg]
    kind = make.__name__.removeprefix("make_")
    with pytest.raises(UnusableInput, match=f"(?i)a {kind}"):
        plan([Mirror(pattern)], here)


def test_a_broken_symlink_is_refused_by_name(here: Path) -> None:
    (here / "link").symlink_to("gone")
    with pytest.raises(UnusableInput, match="broken symlink") as caught:
        plan([Mirror("link")], here)
    assert caught.value.path == str(here / "link")


def test_an_unreadable_input_is_refused_before_anything_runs() -> None:
    with open_folder() as base:
        write(base, "file", "tree/x")
        (base / "file").chmod(0)
        (base / "tree").chmod(0)
        for pattern in ("file", "tree"):
            message = unprivileged(lambda p=pattern: plan([Mirror(p)], base))
            assert message.startswith("UnusableInput")
            assert "permission denied" in message
            assert str(base / pattern) in message
        (base / "tree").chmod(0o700)


def test_the_local_storage_in_a_mirrored_tree_is_skipped(
    here: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "tree/a")
    monkeypatch.setenv("PARALLEL_LOCAL_STORAGE", str(here / "tree/scratch"))
    write(local_storage(), "cache/x")
    assert mirrored("tree", here, folder) == ["tree/a"]
    assert not (folder / "tree/scratch" / local_storage().name).exists()


@pytest.mark.parametrize("inner", [".", "sandboxes"])
def test_the_local_storage_itself_cannot_be_mirrored(inner: str, here: Path) -> None:
    path = local_storage() / inner
    path.mkdir(exist_ok=True)
    with pytest.raises(UnusableInput, match="local storage"):
        plan([Mirror(str(path))], here)


def test_plan_content_changes_with_every_relevant_change(here: Path) -> None:
    write(here, "file", "tree/a", "tree/deep/b")
    (here / "tree/link").symlink_to("a")

    def now() -> list[str]:
        return [item.content for item in plan(as_mirrors(["file", "tree"]), here)]

    states = [now()]
    assert now() == states[0]
    for change in (
        lambda: (here / "file").write_text("longer than it was before"),
        lambda: os.utime(here / "tree/deep/b", ns=(1, 1)),
        lambda: (here / "tree/new").mkdir(),
        lambda: write(here, "tree/deep/c"),
        lambda: (here / "tree/deep/c").unlink(),
        lambda: ((here / "tree/link").unlink(), (here / "tree/link").symlink_to("deep")),
    ):
        change()  # type: ignore[no-untyped-call]
        states.append(now())
    distinct = {str(state) for state in states}
    assert len(distinct) == len(states) - 1, "a file that came and went leaves no trace"


def test_the_items_of_a_plan_say_what_will_be_copied(here: Path) -> None:
    write(here, "tree/a", "tree/b", "file")
    (here / "tree/link").symlink_to("a")
    sizes = {item.target: (item.kind, item.size) for item in plan(as_mirrors(["*"]), here)}
    both = sum((here / name).stat().st_size for name in ("tree/a", "tree/b"))
    assert sizes == {"tree": ("tree", both), "file": ("file", (here / "file").stat().st_size)}
