"""Placeholders: values stay unchanged in every kind of template."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import need
from encamp.errors import BadJob
from encamp.jobs.file.foreach import each_file
from encamp.jobs.steps import command
from encamp.jobs.templates.placeholders import (
    file_values,
    fill,
    fill_command,
    fill_pattern,
    fill_rename,
    fill_shell,
)
from encamp.storage.inputs.mirror import find, renamed

AWKWARD = [
    "plain",
    "two words",
    "line\nend",
    "-rf",
    "a[1]*?",
    'it\'s "quoted"',
    "$(touch hacked) `touch hacked` $HOME",
    "back\\slash",
    "!x ~ # {y}",
    os.fsdecode(b"caf\xe9"),
]


def why(call, *args) -> str:
    with pytest.raises(BadJob) as caught:
        call(*args)
    return str(caught.value)


def test_plain_text_gets_the_values_and_plain_braces():
    assert fill("{a}-{{{b}}}-{{}}", {"a": "1", "b": "2"}) == "1-{2}-{}"


@pytest.mark.parametrize(
    ("text", "filled"), [("{n:03d}", "007"), ("{n:03}", "007"), ("{m:04d}", "-012"), ("{n}", "7")]
)
def test_whole_numbers_can_be_padded_with_zeros(text, filled):
    assert fill(text, {"n": "7", "m": "-12"}) == filled


UNKNOWN = "no such placeholder here; "
KNOWN = "the placeholders are {index}, {input}; write {{ and }} for plain braces"
PADDING = "only zero padding can be added, such as {index:03d}; "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{inptu}", f"{{inptu}}: {UNKNOWN}did you mean {{input}}? {KNOWN}"),
        ("awk '{ print $1 }'", f"{{ print $1 }}: {UNKNOWN}{KNOWN}"),
        ("{input.upper}", f"{{input.upper}}: {UNKNOWN}{PADDING}{KNOWN}"),
        ("{input[0]}", f"{{input[0]}}: {UNKNOWN}{PADDING}{KNOWN}"),
        ("{index!r}", f"{{index!r}}: {UNKNOWN}{PADDING}{KNOWN}"),
        ("{index:>9}", f"{{index:>9}}: {UNKNOWN}{PADDING}{KNOWN}"),
        ("{}", f"{{}}: {UNKNOWN}{KNOWN}"),
        ("a { b", "{: a lone brace; write {{ for a plain brace"),
        ("a } b", "}: a lone brace; write }} for a plain brace"),
        ("{input:03d}", "{input:03d}: pads integers only, and input is 'x.las' here"),
        ("a\0b", "'a\\x00b': contains a null byte, which is not allowed in names and commands"),
    ],
)
def test_bad_placeholder_error_suggests_correction(text, message):
    assert why(fill, text, {"index": "1", "input": "x.las"}) == message


@pytest.mark.parametrize("value", AWKWARD)
def test_a_value_in_a_pattern_matches_only_itself(value, tmp_path):
    for name in (f"{value}.x", "a1.x", "other.x"):
        (tmp_path / name).touch()
    assert find(fill_pattern("{v}.x", {"v": value}), tmp_path) == [tmp_path / f"{value}.x"]
    found = find(fill_pattern("{v}.*", {"v": value}), tmp_path)
    assert found == [tmp_path / f"{value}.x"]


def test_a_value_with_a_tilde_is_no_home_folder(tmp_path):
    (tmp_path / "~nobody.x").touch()
    pattern = fill_pattern("{v}.*", {"v": "~nobody"})
    assert find(pattern, tmp_path) == [tmp_path / "~nobody.x"]


def test_the_renamed_files_own_placeholders_are_left_for_it():
    values = {"task": "t{1}", "stem": "no", "name": "no", "suffix": "no"}
    template = fill_rename("{{{task}-{stem}{suffix}", values)
    assert renamed(template, "a.raw") == "{t{1}-a.raw"
    assert "the placeholders are {name}, {stem}, {suffix}, {task}" in why(
        fill_rename, "{x}", {"task": "t"}
    )
    assert "zero padding" in why(fill_rename, "{stem.upper}", values)


@pytest.mark.parametrize("value", AWKWARD)
def test_a_value_stays_one_word_of_a_command(value):
    step = command("prog --in={v} 'x {v}' {v}")
    assert fill_command(step, {"v": value}).line == ("prog", f"--in={value}", f"x {value}", value)


def test_a_word_that_begins_with_an_input_named_like_an_option_begins_with_its_folder():
    values = file_values(Path("/data/-rf.las"))
    step = fill_command(command("prog {input} {input}.out --in={input} {stem} ''"), values)
    assert step.line == ("prog", "./-rf.las", "./-rf.las.out", "--in=-rf.las", "-rf", "")
    assert fill_shell("cat {input} <{input} {stem}", values) == "cat ./-rf.las <./-rf.las -rf"
    assert fill_shell("cat '{input}' x-{input}", values) == "cat './-rf.las' x--rf.las"


def test_a_commands_files_and_environment_are_filled_as_they_are():
    step = command("prog", env={"A": "{v}", "B": "{{"}, stdin="{v}.in", stdout="{v}.out")
    filled = fill_command(step, {"v": "it's -x"})
    assert filled.env == {"A": "it's -x", "B": "{"}
    assert (filled.stdin, filled.stdout) == ("it's -x.in", "it's -x.out")
    assert fill_command(command("prog"), {}) == command("prog")


def shell(line: str, folder: Path) -> bytes:
    done = subprocess.run(["/bin/sh", "-c", line], cwd=folder, capture_output=True, check=True)
    assert not (folder / "hacked").exists()
    return done.stdout


SHELL_PLACES = [
    "printf %s {v}",
    "printf %s '{v}'",
    'printf %s "{v}"',
    'printf %s "$(printf %s {v})"',
    'printf %s "$(printf %s "{v}")"',
    "printf %s \"$(printf %s '{v}')\"",
    "(printf %s {v})",
    'X={v}; printf %s "$X"',
    "printf %s {v} # don't mind",
    "# don't mind\nprintf %s {v}",
    "case a in a) printf %s {v};; esac",
    "printf %s {v} | cat; echo $((1 + 2)) \\' > /dev/null",
    'f() {{ printf %s "${{1}}"; }}; f {v}',
]


@pytest.mark.parametrize("line", SHELL_PLACES)
@pytest.mark.parametrize("value", AWKWARD)
def test_the_shell_gets_every_value_whole_and_runs_none_of_it(line, value, tmp_path):
    assert shell(fill_shell(line, {"v": value}), tmp_path) == os.fsencode(value)


BASH_PLACES = [
    *SHELL_PLACES,
    "printf %s $'it\\'s' > /dev/null; printf %s {v}",
    "x=$'\\'' y={v}; printf %s \"$y\"",
    "cat <(printf %s {v})",
    "[[ {v} == '{v}' ]] && printf %s {v}",
    'a=({v} x); printf %s "${{a[0]}}"',
]


@pytest.mark.parametrize("line", BASH_PLACES)
def test_bash_gets_every_value_whole_and_runs_none_of_it(line, tmp_path):
    need("bash", shutil.which("bash") is not None)
    for value in AWKWARD:
        filled = fill_command(command(line, shell="bash"), {"v": value}).line
        words = ["bash", "-o", "pipefail", "-c", filled]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
        assert done.stdout == os.fsencode(value)
        assert not (tmp_path / "hacked").exists()


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_passes_through_the_shells_quoting(value):
    line = fill_shell("printf %s,%s,%s {v} '{v}' \"{v}\"", {"v": value})
    out = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout
    assert out == ",".join([value] * 3).encode()


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("echo x # {v}", "a comment"),
        ("echo `cat {v}`", "backquotes"),
        ('echo "`cat {v}`"', "backquotes"),
        ("echo ${{X:-{v}}}", "${...}"),
        ('echo "${{X:-"{v}"}}"', "${...}"),
        ("cat <<END\n{v}\nEND", "a here-document"),
        ("echo $'{v}'", "$'...'"),
    ],
)
def test_where_no_quoting_is_safe_the_shell_step_is_refused(line, place):
    assert why(fill_shell, line, {"v": "x"}) == (
        f"{{v}}: cannot be inserted inside {place} of a shell step; "
        'give it as env = { VALUE = "{v}" } and write "$VALUE" there'
    )


COMPUTES = [
    ("echo $(( {v} + 1 ))", "((...))"),
    ('echo "$(({v}))"', "((...))"),
    ("(( {v} > 1 )) && echo", "((...))"),
    ("for ((i = {v}; i < 3; i++)); do echo; done", "((...))"),
    ("echo $[ {v} + 1 ]", "$[...]"),
    ("[[ {v} -gt 3 ]] || true", "[[ ... ]] with a comparison of numbers"),
    ("[[ x && ( 3 -le {v} ) ]] || true", "[[ ... ]] with a comparison of numbers"),
    ("a[{v}]=1", "a subscript"),
    ("m=([{v}]=1)", "a subscript"),
]
ODD = ("a[$(touch hacked)]", "$(touch hacked).xyz", "a;touch hacked", "a b", "é")


@pytest.mark.parametrize(("line", "place"), COMPUTES)
@pytest.mark.parametrize("bash", [True, False])
def test_where_the_shell_computes_only_numbers_are_filled_in(line, place, bash):
    for value in (*ODD, "a.las", "HOME"):
        assert f"only numbers can be inserted inside {place} of a shell step, because" in why(
            lambda value=value: fill_shell(line, {"v": value}, bash=bash)
        )
    assert "12" in fill_shell(line, {"v": "12"}, bash=bash)


def test_a_sum_with_a_number_does_not_keep_odd_values_from_other_places():
    line = fill_shell("head -n $(( {n} * 2 )) {v}", {"n": "12", "v": "a b"})
    assert line == "encamp_v='a b'; head -n $(( 12 * 2 )) \"$encamp_v\""


PLAIN_ONLY = [
    ("sh -c {v}", "its sh might run data as code"),
    ("echo x | xargs sh -c 'echo {v}'", "its xargs might run data as code"),
    ("find . -exec sh -c 'echo {v}' \\;", "its find might run data as code"),
    ("sed -n 's/a/{v}/'", "its sed might run data as code"),
    ("awk -v a=b '{v}'", "its awk might run data as code"),
    ("python3 -c '{v}'", "its python might run data as code"),
    ("eval true; echo {v}", "its eval might run data as code"),
    ("declare -i x; x={v}", "declare -i x might run data as code"),
    ("{v} x", "the shell may treat a value there as code"),
    ("$X {v}", "the line contains a command whose name is not a literal word"),
    ("PATH={v}", "shells and programs act upon the variable PATH"),
    ("PS4={v}; set -x", "shells and programs act upon the variable PS4"),
    ("sort {v}; echo don't", "the line cannot be parsed for certain"),
    ("sort {v} > x.sh; sh x.sh", "the line may write x.sh, which it runs"),
    ("[ {v} -a $x ]", "[ {v} -a $x ] might run data as code"),
]


@pytest.mark.parametrize("bash", [True, False])
def test_only_plain_values_are_filled_in_where_others_may_be_run(bash):
    for line, reason in PLAIN_ONLY:
        for value in ODD:
            assert why(
                lambda value=value, line=line: fill_shell(line, {"v": value}, bash=bash)
            ) == (
                f"{{v}}: is {value!r} here, but only ASCII letters, digits and .,:@%+=/-_ are "
                f"allowed at this place of the shell line, because {reason}; pass it to a script "
                "in a file as an argument, or use no shell: a list of words, or encamp map without "
                "--shell"
            )
        assert "a-1.las" in fill_shell(line, {"v": "a-1.las"}, bash=bash)


def test_a_value_that_a_program_would_take_for_an_option_is_refused():
    for line in (
        "tar cf x.tar {v}",
        "tar cf x.tar '{v}'",
        'tar cf x.tar "{v}"',
        'x={v}; tar cf x.tar "$x"',
        'for x in {v}; do tar cf x.tar "$x"; done',
        'set -- {v}; tar cf x.tar "$1"',
        "echo {v} | xargs -0 tar cf x.tar",
    ):
        assert "take it for an option (write ./{v} if it is a file)" in why(
            fill_shell, line, {"v": "--to-command=a b"}
        )
    for line in ("tar cf x.tar ./{v}", "tar cf x.tar -- {v}", "echo {v}", "[ {v} = x ]", "x=./{v}"):
        assert fill_shell(line, {"v": "--to-command=a b"})
    assert fill_shell("tar cf x.tar {input}", {"input": "-a b"}).endswith('./"$encamp_input"')


@pytest.mark.parametrize("name", ["BASH_ENV", "ENV", "PS4", "PROMPT_COMMAND"])
def test_a_variable_that_shells_run_has_only_plain_values(name):
    step = command(["bash", "x.sh"], env={name: "{v}"})
    assert f"shells run the value of {name} as code" in why(
        fill_command, step, {"v": "$(touch hacked)"}
    )
    assert fill_command(step, {"v": "start.sh"}).env == {name: "start.sh"}
    own = command(["bash", "x.sh"], env={name: "$(date)"})
    assert fill_command(own, {"v": "a b"}).env == {name: "$(date)"}


def test_values_that_would_mean_more_than_a_word_are_quoted():
    assert fill_shell("{v} x", {"v": "if"}) == "'if' x"
    assert fill_shell("{v} x", {"v": "PATH=y"}) == "'PATH=y' x"
    assert fill_shell("echo {v}>x", {"v": "2"}) == "echo '2'>x"
    assert fill_shell("echo {v} 'a{v}' \"{v}\"", {"v": ""}) == "echo '' 'a' \"\""
    assert fill_shell("for i in {{1..{v}}}; do :; done", {"v": "3"}, bash=True) == (
        "for i in {1..3}; do :; done"
    )


def test_a_placeholder_after_a_dollar_or_backslash_is_refused():
    assert why(fill_shell, "echo ${v}", {"v": "x"}) == (
        "{v}: cannot follow a $ in a shell step; "
        "for a variable of the shell write ${{v}}, or leave out the $"
    )
    message = "{v}: cannot follow a \\ in a shell step; leave out the \\"
    assert why(fill_shell, "echo \\{v}", {"v": "x"}) == message


def test_each_file_has_its_values():
    files = [Path("/data/north/strip 7.tar.gz"), Path("/x/Makefile")]
    assert [values for _, values in each_file(files)] == [
        {
            "index": "1",
            "input": "strip 7.tar.gz",
            "name": "strip 7.tar.gz",
            "stem": "strip 7.tar",
            "suffix": ".gz",
            "parent": "north",
            "path": "/data/north/strip 7.tar.gz",
        },
        {
            "index": "2",
            "input": "Makefile",
            "name": "Makefile",
            "stem": "Makefile",
            "suffix": "",
            "parent": "x",
            "path": "/x/Makefile",
        },
    ]


def test_a_relative_file_gets_its_full_path_and_the_name_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    values = file_values(Path("../a.txt"))
    assert values["parent"] == tmp_path.name
    assert Path(values["path"]).is_absolute()
