"""Shells run no value of a placeholder, wherever in a line it stands: real runs of dash and bash.

Each value is a command in some quotes or brackets, and makes a file if any part of it is run. What
is refused is not run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import need
from encamp.errors import BadJob
from encamp.jobs.placeholders import fill_shell

VALUES = (
    "$(touch canary)",
    "touch canary",
    "a[$(touch canary)]",
    "a[$(touch canary)]=1",
    "';touch canary;'",
    '"\ntouch canary\n"',
    "($(touch canary))",
)
CODE = (
    'import os; os.system("touch canary")',
    'BEGIN { system("touch canary") }',
    "1etouch canary",
)
"""Values that are programs of other languages."""

RUN = """
sh -c {v}
bash -cx {v}
bash -o pipefail -lc {v}
'sh' '-c' {v}
x=sh; $x -c {v}
x="sh -c"; $x {v}
x=-c; sh ${{x}} {v}
$SHELL -c {v}
sh <<< {v}
<<< {v} sh
bash -s <<<"{v}"
sh /dev/stdin <<< {v}
source /dev/stdin <<< {v}
. /dev/fd/0 <<< {v}
sh <(echo x; echo {v})
sh < <(echo {v})
source <(echo {v})
echo {v} | sh
printf '%s\\n' {v} | cat | bash -s
{{ echo {v}; }} |& sh
echo {v} | {{ sh; }}
cat <<< {v} | sh
xargs -I% sh -c 'echo %' <<< {v}
echo {v} | xargs -I% sh -c %
echo x | xargs sh -c {v}
find f -exec sh -c 'echo {v}' \\;
timeout 5 nice -n 5 env X=1 sh -c {v}
flock lock --command {v}
script --command={v} /dev/null
env -S{v}
env --split-string={v}
env -iS {v}
eval {v}
\\eval {v}
e"va"l {v}
x=eval; $x {v}
{{fd}}>f eval {v}
3<&0 2>&1 eval {v}
echo x >&{v}
echo x >& {v}
X=1 a=(1 2) command -p eval {v}
time -p ! eval {v}
f() {{ eval {v}; }}; f
f ( ) {{ eval {v}; }}; f
function f {{ eval {v}; }}; f
function f () {{ eval {v}; }}; f
coproc eval {v}; wait
coproc NAME {{ eval {v}; }}; wait
case a in (a) eval {v};; esac
for i in a; {{ eval {v}; }}
for ((;;)); do eval {v}; break; done
if eval {v}; then :; fi
[[ a == a ]] && eval {v}
true |& eval {v}
X=$(eval {v})
cat <(eval {v})
trap -- {v} 0
let {v}
let 'a[{v}]=1'
(( {v} ))
echo "$(( {v} ))"
echo $[ {v} ]
for ((i={v};i<1;i++)); do :; done
a[{v}]=1
a=([{v}]=1)
b=(); b+=([{v}]=1)
declare {v}
declare -i x={v}
typeset -n x={v}; x=1
f() {{ local {v}; }}; f
f() {{ local -i x={v}; }}; f
f() {{ readonly -a x={v}; }}; f
export -a x={v}
read {v} <f
mapfile -C {v} -c 1 a <f
printf -v{v} x
printf -v 'a[{v}]' x
test -v {v}
[ -v {v} ]
[[ -v {v} ]]
[[ 1 -gt {v} ]]
compgen -C {v} x
PS4={v}; set -x; :
BASH_ENV={v} bash -c :
"""
"""Where a shell runs one of the values if it is filled in, or another program does."""
RUN_CODE = """
python3 -Ic{v}
python3 <<< {v}
echo {v} | python3
perl -we{v}
perl -Mstrict -e {v}
sed --expression={v} f
sed -ne{v} f
awk {v} f
awk -Fx -v a=1 {v} f
"""
MAYBE = """
echo $((x[{v}]))
unset {v}
read -a{v} <f
wait -p {v}
getopts ab {v} -a
make -sf mk X={v}
trap {v} EXIT
alias a={v}; eval a
for {v} in a; do :; done
echo ${{x:{v}}}
echo `echo {v}`
bind -x {v}
"""
"""Where only some shells run one, or only a value that is made for it."""

SAFE = """
echo {v}
echo "a[{v}]" 'a[{v}]'
printf {v}
printf %d {v}
echo x >{v}
echo x &>{v}
sh f {v} </dev/null
sh f <<< {v}
cat <<< {v}
echo {v} | sh f
echo {v} | tee g; sh f
sh -c cat <<< {v}
sh -c 'echo "$1"' sh {v}
printf %s {v} | xargs -0 sh -c 'echo "$1"' sh
find f -name {v} -exec sh -c 'echo "$1"' sh {v} \\;
awk '{{ print v }}' v=x {v}
awk -v v={v} 'BEGIN {{ print v }}'
x=cat; $x {v}
$CC -c {v}
f() {{ local x={v}; echo "$x"; }}; f {v}
function f {{ echo "$1"; }}; f {v}
export x={v}; echo "$x"
readonly {{a,b}}; x={v}
a=(x {v}); echo "${{a[1]}}"
case {v} in a) echo {v};; esac
for x in {v}; do echo "$x"; done
set -- {v}; shift; cd {v}
[ {v} = x ] || [ {v} -gt 1 ]
[[ {v} == x || x =~ {v} || -n {v} ]]
f() {{ return {v}; }}; f
expr {v} + 1
exec {v}
PATH={v}
IFS={v}; echo x
"""
"""Where all values can be filled in."""

DRIVER = r"""
for line in cases/*; do
    cd "$line"
    echo 1 >f
    printf 'all:\n\t@echo $(X)\n' >mk
    for case in .case-*; do
        [ -e canary ] || (eval "$(cat "$case")") </dev/null >/dev/null 2>&1
    done
    cd ../..
done
"""


def _lines(table: str) -> list[str]:
    return [line for line in table.split("\n") if line]


def _filled(line: str, value: str, shell: str) -> str | None:
    try:
        return fill_shell(line, {"v": value}, bash=shell == "bash")
    except BadJob:
        return None


def _in_quotes(line: str, value: str) -> str:
    """What a line would be if values were quoted and never refused."""
    bare = value.replace("'", "'\\''")
    for written, quoted in (("'{v}'", f"'{bare}'"), ('"{v}"', f"'{bare}'"), ("'{v}", f"'{bare}")):
        line = line.replace(written, quoted)
    inside = re.sub(r"'([^']*)\{v\}", lambda found: f"'{found[1]}{bare}", line)
    return inside.replace("{v}", f"'{bare}'").replace("{{", "{").replace("}}", "}")


def _run_by(shell: str, cases: dict[str, list[str]], folder: Path) -> list[str]:
    """Those of which some case makes the file, all run by one process."""
    for number, lines in enumerate(cases.values()):
        (folder / f"cases/{number:04}").mkdir(parents=True)
        for n, line in enumerate(lines):
            (folder / f"cases/{number:04}/.case-{n}").write_text(line)
    subprocess.run([shell, "-c", DRIVER], cwd=folder, timeout=120, check=False)
    return [line for n, line in enumerate(cases) if (folder / f"cases/{n:04}/canary").exists()]


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_value_is_refused_or_is_no_code(shell: str, tmp_path: Path) -> None:
    need(shell, shutil.which(shell) is not None)
    cases = {}
    for line in _lines(RUN + RUN_CODE + MAYBE + SAFE):
        filled = [_filled(line, value, shell) for value in (*VALUES, *CODE)]
        cases[line] = [one for one in filled if one is not None]
    assert _run_by(shell, cases, tmp_path) == []


def test_the_table_is_of_lines_that_would_run_a_value(tmp_path: Path) -> None:
    """Without it the test above would prove nothing."""
    need("bash", shutil.which("bash") is not None)
    cases = {}
    for line in _lines(RUN + RUN_CODE):
        values = CODE if line in _lines(RUN_CODE) else VALUES
        cases[line] = [_in_quotes(line, value) for value in values]
    run = _run_by("bash", cases, tmp_path)
    assert [line for line in cases if line not in run] == []


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_where_no_value_is_run_all_are_filled_in(shell: str) -> None:
    for line in _lines(SAFE):
        for value in (*VALUES, "two words", "it's"):
            assert _filled(line, value, shell) is not None, line
