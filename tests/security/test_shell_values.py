"""Shells run no value of a placeholder, wherever in a line it stands: real runs of dash and bash.

Each value is a command in some quotes or brackets, and makes a file if any part of it is run. What
is refused is not run. Lines that are honest take all values.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import need
from encamp.errors import BadJob
from encamp.jobs.templates.placeholders import fill_shell

VALUES = (
    "$(touch canary)",
    "touch canary",
    "a[$(touch canary)]",
    "a[$(touch canary)]=1",
    "';touch canary;'",
    '"\ntouch canary\n"',
    "($(touch canary))",
    "[$(touch canary)]=1",
    "touch canary;#",
    "sh -c 'touch canary'",
    "x=$(touch canary) y",
)
PYTHON = 'import os; os.system("touch canary")'
PERL = 'system("touch canary")'
AWK = 'BEGIN { system("touch canary") }'
SED = "1etouch canary"
ED = "\n!touch canary\n"
NAME = "a[$(touch canary)]"
PRINTF = "-va[$(touch canary)]"
TAR_OUT = "--to-command=touch canary"
TAR_IN = "--checkpoint-action=exec=touch canary"
CODE = (PYTHON, PERL, AWK, SED, ED, PRINTF, TAR_OUT, TAR_IN)
"""Values that are programs of other languages, or options by which programs run a command."""

RUN = r"""
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
printf '%s\n' {v} | cat | bash -s
{{ echo {v}; }} |& sh
echo {v} | {{ sh; }}
cat <<< {v} | sh
xargs -I% sh -c 'echo %' <<< {v}
echo {v} | xargs -I% sh -c %
echo x | xargs sh -c {v}
find f -exec sh -c 'echo {v}' \;
timeout 5 nice -n 5 env X=1 sh -c {v}
flock lock --command {v}
script --command={v} /dev/null
env -S{v}
env --split-string={v}
env -iS {v}
eval {v}
\eval {v}
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
export PS4={v}; set -x; :
readonly PS4={v}; set -x; :
env BASH_ENV={v} bash -c :
x={v}; PS4='$((x))'; set -x; :
for PS4 in {v}; do set -x; :; done
sh -c +x {v}
sh -c -o errexit {v}
bash -c -O extglob {v}
bash -o errexit -c {v}
bash -c -- {v}
(echo {v}) | sh
echo {v} | (sh)
echo {v} | ( ( sh ) )
/bin/echo {v} | sh
env echo {v} | sh
basename {v} | sh
sh <<< "$(echo {v})"
echo {v} | while true; do sh; break; done
echo {v} | if true; then sh; fi
echo {v} | tee >(sh); sleep 0.05
echo {v} > >(sh); sleep 0.05
cat <<< {v} > >(bash); sleep 0.05
sh /dev/fd/3 3<<< {v}
bash /proc/self/fd/3 3<<< {v}
echo {v} | xargs -0 sh -c
printf %s {v} | xargs -0 -n1 sh -c
x={v}; sh -c "$x"
x={v}; eval "$x"
x={v}; eval $x
declare -i x; x={v}
typeset -i x; x+={v}
export x={v}; declare -i y; y=x
x={v}; echo $((x))
x={v}; ((x)); :
x={v}; let x+1; :
x={v}; [[ x -gt 1 ]]; :
x={v}; y=x; [[ $y -eq 0 ]]; :
x={v}; a[x]=1
x={v}; a=([x]=1)
x={v}; echo "${{x@P}}"
x={v}; printf -v "$x" y
x={v}; test -v "$x"
x={v}; [ -v "$x" ]
x={v}; read -r "$x" <f
x={v}; declare -n y="$x"; y=1
y=abc; x={v}; echo ${{y:x}}
OPTIND={v}
RANDOM={v}
x={v}; RANDOM=$x
x={v}; : ${{RANDOM:=$x}}; OPTIND=$x
set -- {v}; eval "$1"
set -- {v}; sh -c "$@"
set -- {v}; $1
f() {{ "$@"; }}; f eval {v}
f() {{ eval "$1"; }}; f {v}
f() {{ sh -c "$1"; }}; f {v}
$0 -c {v}
$(echo eval) {v}
`echo eval` {v}
x=; ${{x:-eval}} {v}
e$()val {v}
e``val {v}
$'\x65val' {v}
$'eval' {v}
$"eval" {v}
{{eval,{v}}}
a=(eval {v}); "${{a[@]}}"
a=(sh -c {v}); "${{a[@]}}"
for x in eval; do $x {v}; done
for x in {v}; do eval "$x"; done
for x in {v}; do sh -c "$x"; done
echo {v} > s.sh; sh s.sh
echo {v} > ./s.sh; . ./s.sh
echo {v} | tee s.sh | cat; bash ./s.sh
printf %s {v} > s; chmod +x s; ./s
find f -exec sh -c {v} \;
find f -exec env -S {v} \;
timeout -s KILL 5 sh -c {v}
x={v}; timeout 5 $x
x={v}; exec $x
x={v}; env $x
x={v}; command $x
x={v}; nice $x
exec sh -c {v}
exec -a name sh -c {v}
command eval {v}
builtin eval {v}
time sh -c {v}
time {{ sh -c {v}; }}
time eval {v}
! eval {v}
nohup sh -c {v}
setsid -w sh -c {v}
stdbuf -oL sh -c {v}
busybox sh -c {v} || sh -c {v}
cat <(sh -c {v})
x=$(sh -c {v})
x=`sh -c '{v}'` || sh -c {v}
[ "$(sh -c {v})" ]
case "$(sh -c {v})" in x) ;; esac
while sh -c {v}; do break; done
until sh -c {v}; do break; done
if ! sh -c {v}; then :; fi
select x in a; do sh -c {v}; break; done <<< 1
true && {{ sh -c {v}; }}
false || ( sh -c {v} )
sh -c {v} &
wait; sh -c {v}
trap {v} EXIT; trap {v} USR1
trap -- {v} DEBUG; :
PROMPT_COMMAND={v}; eval "$PROMPT_COMMAND"
mapfile -t a <<< {v}; eval "${{a[0]}}"
read -r x <<< {v}; eval "$x"
printf %s {v} | while IFS= read -r -d '' x || [ "$x" ]; do eval "$x"; done
complete -C {v} x; compgen -C {v}
hash -p {v} x; eval {v}
ssh() {{ eval "$2"; }}; ssh host {v}
x={v}; y=$x; z="$y"; bash -c "$z"
x={v}; export x; bash -c 'eval "$x"'
x={v} bash -c 'eval "$x"'
env x={v} sh -c 'eval "$x"'
sh -c 'eval "$1"' sh {v}
tar cf - f | tar xf - --to-command={v}
split --filter={v} f
sort f | split --filter {v} -
tar cf a.tar f --checkpoint=1 --checkpoint-action=exec={v}
tar -I {v} -cf a.tar f
dash -c {v}
echo {v} | dash
echo {v} | sh -s x
echo {v} | sh -
echo {v} | sh -e
echo {v} | sh +e
tr a a <<< {v} | sh
printf '%s' {v} | sed p | bash
awk 'BEGIN {{ system(v) }}' v=x v={v} f; awk -v v={v} 'BEGIN {{ system(v) }}'
awk -v v={v} 'BEGIN {{ print v | "sh" }}'
awk -v v={v} 'BEGIN {{ v | getline }}'
echo {v} | awk '{{ system($0) }}'
echo {v} | awk '{{ print | "sh" }}'
echo {v} | sed 'e'
echo {v} | sed 's/x/x/e; s/.*/&/e'
echo {v} | sed -n '1e'
"""
"""Where a shell runs one of the values if it is filled in, or another program does."""
RUN_IN_LINES = (
    "x={v}; sh <<E\n$x\nE",
    "cat <<E | sh\n$(echo {v})\nE",
    "# a comment\nsh -c {v}",
    "echo a \\\n| sh -c {v}",
    "ev\\\nal {v}",
    "s\\\nh -c {v}",
    "sort f\n\n{{\nsh -c {v}\n}}",
    "f() {{\nsh -c {v}\n}}\nf",
    "case a in\na)\nsh -c {v};;\nesac",
    'echo "it\'s # no comment"; sh -c {v}',
    "echo a#'b'; sh -c {v} #'",
    "cat <<'E' > g\n'\nE\nsh -c {v}",
    "cat <<-E > g\n\t'\n\tE\nsh -c {v}",
    "cat <<E''F > g\n'\nEF\nsh -c {v}",
)
RUN_CODE = {
    PYTHON: """
python3 -Ic{v}
python3 <<< {v}
echo {v} | python3
python3 /dev/stdin <<< {v}
python3 - <<< {v}
python3 -u -c {v}
python3 -X utf8 -c {v}
x={v}; python3 -c "$x"
nice python3 -c {v}
python3 <(echo {v})
echo {v} > p.py; python3 p.py
""",
    PERL: """
perl -we{v}
perl -Mstrict -e {v}
""",
    AWK: """
awk {v} f
awk -Fx -v a=1 {v} f
awk -f /dev/stdin f <<< {v}
awk -f - f <<< {v}
awk -f <(echo {v}) f
echo {v} > p.awk; awk -f p.awk f
""",
    SED: """
sed --expression={v} f
sed -ne{v} f
sed -l 5 {v} f
sed -l5 {v} f
sed -n -e p -e {v} f
sed -f - f <<< {v}
sed -f /dev/stdin f <<< {v}
sed -f <(echo {v}) f
""",
    ED: """
ed -s f <<< {v}
""",
    NAME: """
[ {w} {v} ]
[ ! {w} {v} ]
test {w} {v}
test x = x -a {w} {v}
printf {w} {v} x
""",
    PRINTF: """
printf {v} x
""",
    TAR_OUT: """
tar xf a0.tar {v}
""",
    TAR_IN: """
tar cf a.tar --checkpoint=1 {v} f
""",
}
"""Where a program runs that value."""
MAYBE = r"""
echo {v} > e.sh; . ./e.sh
echo {v} > e.sh; source e.sh
echo {v} | tee e.sh; nice cat f; . e.sh
. /dev/stdin f <<< {v}
command . /dev/fd/0 <<< {v}
echo {v} | dd of=s.sh; bash s.sh
echo {v} > "s.sh"; bash 's.sh'
echo {v} > s''.sh; bash s.sh
x=s.sh; echo {v} > $x; bash s.sh
echo {v} > *.sh; bash s.sh
rbash -c {v}
/lib64/ld-linux-x86-64.so.2 /bin/sh -c {v}
ssh-agent sh -c {v}
echo {v} | xargs -0 tar cf x.tar --checkpoint=1 f
x={v}; tar cf x.tar --checkpoint=1 "$x" f
echo {v} | python3 -m code
echo {v} | sh ../../../../../../../../dev/stdin
echo {v} | sh //dev/stdin
set -k; bash -x f PS4={v}
gnuplot g.gp {v}
f() sh; f <<< {v}
[() {{ eval "$2"; }}; [ {v} ]
cat() {{ eval "$@"; }}; cat {v}
: {v}; eval "$_"
echo {v} | while read -r x; do y=$((x)); done
echo {v} | (read -r PS4; set -x; :)
sed 's/a/b/w x\ne' <<< {v}
echo {v} | tee p | python3 -; mkfifo q; sh q
env PS4={v} bash -xc :
x={v}; unset "$x"
SECONDS={v}
alias a={v}; shopt -s expand_aliases
make -sf mk X={v}
X={v} make -sf mk
cat {v} <<< {v} | sh
perl -e 0 -e {v}
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
python3 {v}
perl {v}
{v} x
{v}=1
{v}() {{ :; }}; f
function {v} {{ :; }}
for {v} in a; do :; done
select {v} in a; do :; done
enable -f {v} x
. {v}
bc <<< {v}
m4 <<< {v}
coproc {{ {v}; }}
read -p x {v}
local {v}
readonly {v}
export -n {v}
env {v}
env {v} sh
nice {v}
exec {v}
command {v}
builtin {v}
PATH={v}
IFS={v}; x='a b'; $x
LD_PRELOAD={v} true
GIT_PAGER={v} git log
set {v}
set -o {v}
set {w} {v}
shopt -s {v}
find . {w} {v} \;
find . -exec {v} \;
xargs {v} < f
xargs -I{v} sh -c {v} < f
watch -n 1 {v} & kill $!
parallel {v} ::: a
flock l sh -c {v}
sort --compress-program={v} -S 1k f
git -c core.pager={v} log
git -c alias.x='!eval' x {v}
ssh -o ProxyCommand={v} host
rsync -e {v} f host:f
ssh host {v}
scp {v} host:f
vim -c {v} f
gdb -ex {v}
"""
"""Where only some shells run one, or only a value that is made for it."""

SAFE = r"""
echo {v}
echo "a[{v}]" 'a[{v}]'
printf %d {v}
printf '%s\n' {v} {v}
echo x >{v}
sh f {v} </dev/null
echo {v} | sh f
echo {v} | tee g; sh f
bash -eu ./f {v} </dev/null
printf %s {v} | xargs -0 grep -l
find f -name {v} -exec grep -l {v} f \;
timeout 5 cat {v}; nice -n 5 cat {v}; env X={v} Y=1 sort {v}; time cat {v}
command -v cat; exec > {v}; command cat {v}
tool {v} > {v}.txt
sort {v} | uniq -c | head -n 5 >> {v} 2>&1
cat f && cat {v} || cat ./{v}; cat {v} & wait
if [ -f {v} ]; then cat {v}; elif test -d {v}; then ls {v}; else echo; fi
if ! [ -e {v} ] && [ ! -s {v} -o {v} = x ]; then echo; fi
for x in {v} b; do cat "$x" | sort > "$x.txt"; done
while read -r a b; do echo "$a"; done < {v}
until [ -n {v} ]; do echo; done
( cd {v} && cat f ); {{ cat {v}; }}
x=$(basename {v} .txt) y="$(dirname {v})"; echo "$x" "${{x%.*}}" "${{#y}}" ${{y:-none}}
echo `basename f` > {v}
export NAME={v} OTHER; NAME={v} OTHER='a b' cat
unset NAME; echo {v}
sed -n 's/a/b/p; /x/d' {v}; sed -E -e 's|e|f|g' -e p {v}; sed -i.bak 1d {v}; sed -f g.sed {v}
awk '/a|b/ {{ s += $1 }} END {{ print s || 0 }}' {v}; awk -F: -f g.awk {v}
awk -F {v} '{{ print }}' f
grep -c {v} f; grep -e {v} -- {v}; cut -d {v} -f 1 f; tr -d {v} < f; head -n 1 -- {v}
PATH=$HOME/bin:$PATH cat {v}
PATH=$PWD:$PATH; export PATH; cat {v}
set -eu; cat {v}
set -- {v} x; echo "$1" "$@"
tar czf f.tgz ./{v}; cp ./{v} ./x; mv -- {v} y
case {v} in *.txt|x) echo a;; {v}) echo b;; esac
echo $((1 + 2)) {v}
gzip -c < {v} > {v}.gz # a comment
cat f | while read -r x; do echo "$x" {v}; done
echo "a 'quoted' {v}" 'b "c" {v}'
awk '{{ print v }}' v=x {v}
awk -v v={v} 'BEGIN {{ print v }}'
f() {{ local x={v}; echo "$x"; }}; f {v}
export x={v}; echo "$x"
case {v} in a) echo {v};; esac
for x in {v}; do echo "$x"; done
set -- {v}; shift; cd {v}
[ {v} = x ] || [ {v} -gt 1 ]
f() {{ return {v}; }}; f
expr {v} + 1
"""
"""Where all values can be filled in."""
SAFE_BUT_SLOW = """
. ./env.sh && ./sim {v}; source env.sh; python3 -W ignore -m pkg.tool --in={v}
julia --project=. g.jl {v}; gnuplot g.gp; cat {v}
python3 g.py {v} {v}; python3 -u g.py {v}; python3 -m json.tool f {v}
printf %s {v} | xargs -0 -n 1 python3 g.py
nohup python3 g.py {v}
mpiexec -n 2 ./sim {v}; srun python3 g.py {v}; mpirun -np 4 python3 -m simulate {v}
Rscript --vanilla g.R {v}; perl g.pl {v}; octave --no-gui g.m {v}
"""
"""Those whose programs take long to start; none of these is run."""
SAFE_IN_BASH = r"""
[[ {v} == x || x =~ {v} || -n {v} ]]
[[ -f {v} && ! -d {v} ]] && cat {v}
echo $'a\tb' {v}
a=(x {v}); echo "${{a[1]}}" "${{a[@]}}" "${{#a[@]}}"
a[0]={v}; echo "${{a[0]}}"
cat <(sort {v}) <<< {v}
cat {v} |& sort &> {v}
function f {{ local x={v}; echo "$x"; }}; f {v}
"""

DRIVER = r"""
for line in cases/*; do
    cd "$line"
    echo 1 >f
    tar cf a0.tar f
    printf 'all:\n\t@echo $(X)\n' >mk
    for case in .case-*; do
        rm -f s
        [ -e canary ] || (eval "$(cat "$case")") </dev/null >/dev/null 2>&1
    done
    cd ../..
done
"""


BEFORE = (
    "", "x={v}; ", "export x={v}; ", "set -- {v}; ", "x=$(echo {v}); ", "read -r x <<< {v}\n",
    "for x in {v}; do ", "x=f; ", "declare -i x; ", "declare -n x=y; ", "f() {{ $1; }}; ",
    "alias cat=eval\n", "echo {v} > s; ", "a=(x {v}); ", "cat() {{ sh; }}; ", "while ", "if ",
)  # fmt: skip
INSIDE = (
    "cat {v}", "echo {v}", "x {v}", "$x", '"$x"', '"$@"', "$1 {v}", "f {v}", "f eval {v}", "sh {v}",
    "eval {v}", "x={v}", "x=$y y={v}", "[ $x {v} ]", "[ -n {v} ]", "test -f {v} -a -n x",
    "[[ x -eq {v} ]]", "[[ -n {v} ]]", "echo $((x))", "echo ${{x@P}}", 'echo "${{x:-{v}}}"',
    "sh -c 'echo' {v}", "awk {v}", "sed -n {v}", 'sed -n p "$x"', "env cat {v}", "env $x",
    "env y={v} cat", "xargs cat", "xargs sh -c", "find . -name {v}", "printf %s {v}",
    'printf "$x" {v}', "cat < {v}", "echo a > {v}", "set -x", '"${{a[@]}}"', "unset {v}", "read y",
    "case {v} in x) echo;; *) echo {v};; esac", "cat <<E\n{v}\nE", "echo `echo {v}`", "sh s",
    ". ./s",
)  # fmt: skip
AFTER = (
    "", " | cat", " | sh", " | (sh)", " > s; sh s", " > {v}", " <<< {v}", " && cat {v}", " || $x",
    "; done", "; then sh; fi", "; do break; done", " &", " 2>&1 | xargs cat", " # {v}",
    "; echo $(x)",
    "; cat <(echo {v})", "; y=$((x))", " >(sh)", ") | sh", "; }}", "\n$x", "; sort -- {v}",
)  # fmt: skip
"""Of which lines are put together."""
STEP = 1 if os.environ.get("ENCAMP_CHAOS") else 13


def _lines(table: str) -> list[str]:
    return [line for line in table.split("\n") if line]


RUNNING = {
    **dict.fromkeys((*_lines(RUN), *RUN_IN_LINES), VALUES),
    **{line: (value,) for value, lines in RUN_CODE.items() for line in _lines(lines)},
}
"""Lines, and the values of which one is run there."""
ALL = (*RUNNING, *_lines(MAYBE), *_lines(SAFE), *_lines(SAFE_IN_BASH))
SECOND = "-v"
"""What ``{w}`` is."""


def _filled(line: str, value: str, shell: str) -> str | None:
    try:
        return fill_shell(line, {"v": value, "w": SECOND}, bash=shell == "bash")
    except BadJob:
        return None


def _in_quotes(line: str, value: str) -> str:
    """What a line would be if values were quoted and never refused."""
    bare = value.replace("'", "'\\''")
    line = line.replace("{w}", SECOND)
    for written, quoted in (("'{v}'", f"'{bare}'"), ('"{v}"', f"'{bare}'"), ("'{v}", f"'{bare}")):
        line = line.replace(written, quoted)
    inside = re.sub(r"'([^']*)\{v\}", lambda found: f"'{found[1]}{bare}", line)
    return inside.replace("{v}", f"'{bare}'").replace("{{", "{").replace("}}", "}")


def _run_by(shell: str, cases: dict[str, list[str]], folder: Path) -> list[str]:
    """Those of which some case makes the file, all run by one process."""
    for number, lines in enumerate(cases.values()):
        (folder / f"cases/{number:04}").mkdir(parents=True)
        for n, line in enumerate(lines):
            (folder / f"cases/{number:04}/.case-{n:02}").write_text(line)
    subprocess.run([shell, "-c", DRIVER], cwd=folder, timeout=110 * (14 - STEP), check=False)
    return [line for n, line in enumerate(cases) if (folder / f"cases/{n:04}/canary").exists()]


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_value_is_refused_or_is_no_code(shell: str, tmp_path: Path) -> None:
    need(shell, shutil.which(shell) is not None)
    cases = {}
    for line in ALL:
        values = (*VALUES, *CODE) if line in RUNNING else (*VALUES[::3], CODE[-1])
        filled = [_filled(line, value, shell) for value in values]
        cases[line] = [one for one in filled if one is not None]
    assert _run_by(shell, {line: some for line, some in cases.items() if some}, tmp_path) == []


def test_the_table_is_of_lines_that_would_run_a_value(tmp_path: Path) -> None:
    """Without it the test above would prove nothing."""
    need("bash", shutil.which("bash") is not None)
    cases = {line: [_in_quotes(line, one) for one in values] for line, values in RUNNING.items()}
    run = _run_by("bash", cases, tmp_path)
    assert [line for line in cases if line not in run] == []


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_where_no_value_is_run_all_are_filled_in(shell: str) -> None:
    only_here = SAFE_IN_BASH if shell == "bash" else ""
    for line in _lines(SAFE + SAFE_BUT_SLOW + only_here):
        for value in (*VALUES, "two words", "it's", "Übung [1].txt", "$HOME `x`"):
            assert _filled(line, value, shell) is not None, (line, value)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_lines_that_are_put_together_run_no_value(shell: str, tmp_path: Path) -> None:
    need(shell, shutil.which(shell) is not None)
    lines = [f"{a}{b}{c}" for a in BEFORE for b in INSIDE for c in AFTER][::STEP]
    values = (*VALUES, PRINTF)
    filled = [_filled(line, values[n % len(values)], shell) for n, line in enumerate(lines)]
    accepted = [line for line in filled if line is not None]
    assert len(accepted) > len(lines) / 10
    cases = {accepted[n]: accepted[n : n + 50] for n in range(0, len(accepted), 50)}
    assert _run_by(shell, cases, tmp_path) == []
