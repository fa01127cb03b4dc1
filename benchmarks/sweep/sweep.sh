# GNU parallel makes no folders, so each command makes its own.
run() {
    mkdir -p runs/$1
    cp filter.cir parts.inc measure.sp runs/$1
    cd runs/$1
    ngspice -b -n -D seed=$1 measure.sp > log 2>&1
}
export -f run
seq 300 | parallel -j 2 --joblog runs.log --resume-failed run
echo seed,corner_hz > results.csv
for seed in $(seq 300); do
    echo $seed,$(cut -d ' ' -f 2 runs/$seed/corner.txt)
done >> results.csv
