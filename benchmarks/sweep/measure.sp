*ng_script
setseed $seed
source filter.cir
ac dec 2000 10 1meg
meas ac corner_hz when vdb(out)=-3
echo corner_hz $&corner_hz > corner.txt
quit 0
