*ng_script
* One run:  ngspice -b -n -D corner=tt -D seed=1 measure.sp  writes measure.txt.
* The seed is set before the circuit is read, because that is when its random values are drawn.
* -n leaves out the user's own .spiceinit, so that everybody gets the same numbers.
echo ".lib models.lib $corner" > corner.inc
setseed $seed
source opamp.cir

op
let offset_mv = 1000 * (v(out) - v(inp))
let supply_ua = -1e6 * i(vdd)
set offset_mv = $&offset_mv
set supply_ua = $&supply_ua

ac dec 20 10 1g
set units = degrees
let gain_db = 0
let unity_hz = 0
let phase = 0
meas ac gain_db find vdb(out) at=10
meas ac unity_hz when vdb(out)=0
meas ac phase find vp(out) when vdb(out)=0
if unity_hz = 0
  echo "the gain never falls to 0 dB: nothing to measure"
  quit 1
end
let unity_mhz = unity_hz / 1e6
let margin_deg = 180 + phase

echo corner $corner > measure.txt
echo seed $seed >> measure.txt
echo gain_db $&gain_db >> measure.txt
echo unity_mhz $&unity_mhz >> measure.txt
echo margin_deg $&margin_deg >> measure.txt
echo offset_mv $offset_mv >> measure.txt
echo supply_ua $supply_ua >> measure.txt
quit 0
