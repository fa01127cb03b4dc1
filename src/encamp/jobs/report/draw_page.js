"use strict";
const report = JSON.parse(document.getElementById("report").textContent);
const left = report.left_out;  // tasks that are only in report.json, in numbers
const $ = id => document.getElementById(id);
const MOST_BARS = 20000, MOST_ROWS = 5000, FIRST_FAILURES = 20, SIDE_GAP = 2;
const STATES = {
  failed: ["✕", "failed"], blocked: ["⊘", "blocked"], done: ["✓", "done"], "up to date": ["=", "same"],
  running: ["▸", "todo"], waiting: ["…", "other"], "to do": ["○", "todo"],
};
const PHASES = ["job prephase", "task prephase", "steps", "task postphase"];
const PHASE_COLOURS = ["--job", "--mirror", "--step", "--post"];

// Text is only ever set as text, never as markup.
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick") made.onclick = value;
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined && child !== ""));
  return made;
}
// Control characters, and marks that turn the direction of text, would hide what a name really is.
const shown = text => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff]/g,
  c => ({"\n": "\\n", "\t": "\\t", "\r": "\\r"})[c] ?? "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
// A log as a terminal would show it: no colour codes, and of an overwritten line its last form.
const logText = text => text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, "").replace(/\r+\n/g, "\n")
  .replace(/[^\n]*\r(?=[^\n])/g, "").split("\n").map(shownLine).join("\n").trimEnd();
const shownLine = line => line.split("\t").map(shown).join("\t");
const plural = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const most = numbers => numbers.reduce((top, n) => Math.max(top, n), 0);
const sum = numbers => numbers.reduce((total, n) => total + (n || 0), 0);

function seconds(s) {
  if (s === null || s === undefined || Number.isNaN(s)) return "–";
  if (s < 0) return "−" + seconds(-s);
  if (s === 0) return "0 s";
  if (s < 0.001) return "< 1 ms";
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.995) return `${s.toFixed(2)} s`;
  if (s < 59.95) return `${s.toFixed(1)} s`;
  s = Math.round(s);
  const two = n => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  const minutes = Math.round(s / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}
function bytes(n) {
  if (n < 1024) return `${n} B`;
  let unit = 0;
  for (n /= 1024; n >= 999.5 && unit < 4; unit++) n /= 1024;
  return `${n < 9.995 ? n.toFixed(2) : n < 99.95 ? n.toFixed(1) : n.toFixed(0)} ${["KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}
const moment = t => new Date(t * 1000).toLocaleString(undefined,
  {year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short"});

// What the page shows of each task and attempt, computed once.
const kind = phase => ({"job prephase": 0, "task prephase": 1, "task postphase": 3})[phase.name] ?? 2;
const attempts = [];
report.tasks.forEach((task, index) => {
  task.index = index;
  task.attempts.forEach(attempt => {
    attempt.task = task;
    attempt.failed = attempt.error !== null || attempt.error_type !== null;
    attempt.start = attempt.phases.length ? Math.min(...attempt.phases.map(p => p.start)) : attempt.submitted;
    attempt.end = Math.max(attempt.start, ...attempt.phases.map(p => p.start + p.seconds));
    attempt.busy = sum(attempt.phases.map(p => p.seconds));
    if (task.state !== "up to date") attempts.push(attempt);  // those are an earlier run's
  });
  const last = task.attempts[task.attempts.length - 1];
  const ran = task.attempts.length > 0;
  task.host = last?.where?.host ?? "";
  task.worker = last?.where?.worker ?? "";
  task.pid = last?.where?.pid;
  task.phase = [0, 1, 2, 3].map(k => {
    const some = (last?.phases ?? []).filter(p => kind(p) === k);
    return some.length ? sum(some.map(p => p.seconds)) : null;
  });
  task.total = ran ? sum(task.attempts.map(a => a.busy)) : null;
  task.bytes = ran ? sum(task.attempts.map(a => a.bytes_mirrored)) : null;
  task.cpu = ran ? sum(task.attempts.map(a => a.cpu_seconds)) : null;
  task.memory = ran ? most(task.attempts.map(a => a.peak_memory)) || null : null;
  task.error = last?.failed ? (last.error ?? last.error_type) : null;
  task.reason = task.why || (task.state === "failed" ? task.error ?? "" : "");
  task.words = [task.name, task.worker, task.reason, task.pid ?? ""].join("\n").toLowerCase();
});
if (report.live) markRunning();
const count = state => report.tasks.filter(task => task.state === state).length + (left.states[state] ?? 0);
const total = report.tasks.length + left.tasks, tries = attempts.length + left.attempts;
const stateMark = state => {
  const [glyph, tone] = STATES[state] ?? ["?", "other"];
  return el("span", {class: "mark s-" + tone, "aria-hidden": "true"}, glyph);
};

// A page that is written during the run: it reloads itself, unless somebody is using it.
const RENEWED_EVERY = Math.max(3000, 500 * (report.pause ?? 0)), SILENT_AFTER = 120 + 3 * (report.pause ?? 0);
function liveOutcome() {
  const live = report.live, ended = total - (live.counts.waiting ?? 0) - (live.counts.running ?? 0);
  if (Date.now() / 1000 - live.now > SILENT_AFTER)
    return ["blocked", "■", `no update since ${new Date(live.now * 1000).toLocaleTimeString()}: the run may have been killed`];
  const rest = live.left === null ? "" : `, about ${live.left < 60 ? Math.round(live.left) + " s" : seconds(live.left)} left`;
  return ["todo", "▸", live.state === "stopping" ? "stopping" : `running: ${ended.toLocaleString("en")} of ${total.toLocaleString("en")}${rest}`];
}
function markRunning() {
  const byName = new Map(report.tasks.map(task => [task.name, task]));
  for (const {name, since, attempt} of report.live.running) {
    const task = byName.get(name);
    if (!task || task.state !== "waiting") continue;
    task.state = "running";
    task.why = task.reason = `for ${seconds(report.live.now - since)}${attempt > 1 ? `, attempt ${attempt}` : ""}`;
  }
}
const PLACE = "encamp:" + location.pathname;
function renewed() {
  const used = document.querySelector("#tasks .detail") || wanted.states.size || zoom !== 1 || !$("tip").hidden
    || document.activeElement?.matches("input, select") || String(getSelection());
  if (used || document.hidden) return void setTimeout(renewed, RENEWED_EVERY);
  try { sessionStorage.setItem(PLACE, JSON.stringify([scrollX, scrollY, wanted.words])); } catch { /* not kept */ }
  location.reload();
}
function followRun() {
  try {
    const [x, y, words] = JSON.parse(sessionStorage.getItem(PLACE));
    sessionStorage.removeItem(PLACE);
    wanted.words = $("find").value = words;
    if (words) drawRows();
    scrollTo(x, y);
  } catch { /* it was not reloaded */ }
  if (!report.live) return;
  document.querySelector("footer").firstChild.textContent = "Written during the run; at its end there are ";
  setTimeout(renewed, RENEWED_EVERY);
}

function drawHeader() {
  const failed = count("failed"), wall = report.ended - report.started;
  const busy = sum(attempts.map(a => a.busy)) + sum(Object.values(left.busy)), cpu = sum(attempts.map(a => a.cpu_seconds)) + left.cpu_seconds;
  const again = report.tasks.filter(t => t.state !== "up to date" && t.attempts.length > 1).length + left.again;
  $("name").textContent = shown(report.name);
  const [tone, glyph, words] =
    report.live ? liveOutcome()
    : report.interrupted ? ["blocked", "■", "stopped before the end" + (failed ? `, ${failed} failed` : "")]
    : failed ? ["failed", "✕", plural(failed, "task") + " failed"]
    : count("blocked") ? ["blocked", "⊘", plural(count("blocked"), "task") + " blocked"]
    : count("to do") ? ["todo", "○", plural(count("to do"), "task") + " to do"]
    : !total ? ["same", "=", "no tasks"]
    : count("up to date") === total ? ["same", "=", "everything was up to date"]
    : count("done") + count("up to date") === total ? ["done", "✓", "all done"]
    : ["other", "…", "not finished"];
  $("outcome").classList.add("s-" + tone);
  $("outcome").textContent = `${glyph} ${words}`;
  const facts = [["Results in", el("a", {href: report.href}, shown(report.destination))], ["Started", moment(report.started)],
    ["From", shown(report.controller)], ["Executor", shown(report.executor)],
    ...(report.not_selected ? [["Not selected", `${report.not_selected} tasks`]] : []),
    ...(report.orphans ? [["Orphans", `${report.orphans > 1000 ? "more than 1,000 files" : plural(report.orphans, "file")} of earlier runs; encamp prune removes them`]] : []),
    ...(report.warnings ?? []).map(warning => ["Warning", shown(warning)])];
  $("facts").append(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const hosts = new Set([...attempts.filter(a => a.where).map(a => a.where.host), ...Object.keys(left.busy).filter(Boolean)]).size;
  const slots = report.lanes.filter(lane => lane.host !== null).length;
  const files = sum(attempts.map(a => a.files_mirrored)) + left.files_mirrored, brought = sum(attempts.map(a => a.bytes_shared)) + left.bytes_shared;
  const memory = most([...attempts.map(a => a.peak_memory), left.peak_memory]);
  const speed = count("done") && wall > 0 ? busy / wall : 0;
  const tile = (name, figure, note) => el("div", {class: "tile"}, el("div", {class: "name"}, name),
    el("div", {class: "figure"}, figure), el("div", {class: "note"}, note));
  $("tiles").append(
    tile("Duration", seconds(wall), `${report.live ? "at" : "ended"} ${new Date(report.ended * 1000).toLocaleTimeString()}`),
    tile("Tasks", total.toLocaleString("en"), plural(tries, "attempt") + (again ? `, ${plural(again, "task")} tried again` : "")),
    tile("Speed-up", speed ? (speed < 1 ? speed.toPrecision(1) : speed.toFixed(speed < 100 ? 1 : 0)) + " ×" : "–",
      busy ? `${seconds(busy)} of work` : "nothing ran"),
    tile("Ran on", hosts ? plural(hosts, "host") : "–", hosts ? plural(slots, "slot") : "nothing ran"),
    tile("CPU time", seconds(cpu), busy ? `${Math.round(100 * cpu / busy)} % of the tasks' time` : "–"),
    tile("Mirrored", bytes(sum(attempts.map(a => a.bytes_mirrored)) + left.bytes_mirrored), plural(files, "file") + (brought ? `; ${bytes(brought)} of job inputs were copied to the hosts' caches` : "")),
    tile("Published", bytes(report.published.bytes), plural(report.published.files, "file")),
    tile("Peak memory", memory ? bytes(memory) : "–", "of one task"));
  for (const state of Object.keys(STATES)) {
    const n = count(state);
    if (!n) continue;
    $("share").append(el("i", {class: "s-" + STATES[state][1], style: `flex:${n} 1 0`}));
    $("counts").append(el("li", {}, stateMark(state), el("strong", {}, n.toLocaleString("en")), " " + state));
  }
  $("made").textContent = `Made by encamp ${shown(report.version)}.`;
}

const logLinks = task => [
  task.href && el("a", {href: task.href}, "whole log"),
  task.kept && el("span", {}, "sandbox kept: ", el("code", {}, shown(task.kept))),
].filter(Boolean);
const logBox = text => text.trim() ? el("pre", {class: "log", tabindex: "0", "aria-label": "Last lines of the log"}, logText(text)) : null;

function failureCard(task) {
  const last = task.attempts[task.attempts.length - 1];
  return el("article", {class: "failure"},
    el("div", {class: "head"}, el("h3", {}, stateMark("failed"), el("button", {class: "plain", onclick: () => reveal(task)}, shown(task.name))),
      last?.error_type ? el("span", {class: "chip"}, shown(last.error_type)) : null,
      task.host ? el("span", {class: "soft"}, "on ", shown(task.host), task.worker ? `, ${shown(task.worker)}` : "") : null,
      task.attempts.length ? el("span", {class: "soft"}, task.attempts.length > 1 ? `all ${task.attempts.length} attempts failed` : "one attempt") : null),
    el("pre", {class: "error"}, logText(task.error ?? task.why ?? "")),
    task.inputs?.length ? el("p", {class: "soft", style: "margin:0"}, `${plural(task.inputs.length + (task.more_inputs ?? 0), "input")}: `,
      task.inputs.slice(0, 3).map(one => shown(one.path)).join(", "), task.inputs.length > 3 ? ", …" : "") : null,
    logBox(task.log_tail), logLinks(task).length ? el("div", {class: "links"}, ...logLinks(task)) : null);
}
function drawFailures() {
  const failed = report.tasks.filter(task => task.state === "failed"), blocked = count("blocked");
  if (!failed.length) return;
  $("failures").hidden = false;
  $("failures-h").textContent = plural(count("failed"), "failure") + (left.states.failed ? `, ${failed.length.toLocaleString("en")} of them here` : "");
  const list = $("failure-list");
  list.append(...failed.slice(0, FIRST_FAILURES).map(failureCard));
  if (failed.length > FIRST_FAILURES) {
    const all = el("button", {class: "btn", onclick: () => list.replaceChildren(...failed.map(failureCard))}, `Show all ${failed.length} failures`);
    list.append(el("p", {style: "margin:12px 0 0"}, all));
  }
  if (blocked) $("failures").append(el("p", {class: "soft", style: "margin:12px 0 0"},
    stateMark("blocked"), `${plural(blocked, "task")} blocked: not run, because a task that they wait for failed.`));
}

// The timeline: bars are placed in per cent of their track, so that a zoom only changes its width.
const zero = Math.min(report.started, ...attempts.slice(0, MOST_BARS).map(a => a.start));
const span = Math.max(report.ended, ...attempts.slice(0, MOST_BARS).map(a => a.end)) - zero || 1;
const percent = t => 100 * t / span;
const lanes = report.lanes.map(lane => ({...lane, bars: []}));
let zoom = 1, current = null;

// A colour for each kind of phase; consecutive steps alternate between two shades.
function phaseColours(attempt) {
  let steps = 0;
  return attempt.phases.map(phase => kind(phase) === 2 && steps++ % 2 ? "--step2" : PHASE_COLOURS[kind(phase)]);
}
function phaseStops(attempt) {
  const length = attempt.end - attempt.start || 1, stops = [], colours = phaseColours(attempt);
  let at = 0;
  attempt.phases.forEach((phase, n) => {
    const from = 100 * (phase.start - attempt.start) / length, to = from + 100 * phase.seconds / length;
    if (from > at + 0.01) stops.push(`var(--gap) ${at.toFixed(3)}% ${from.toFixed(3)}%`);
    stops.push(`var(${colours[n]}) ${Math.max(at, from).toFixed(3)}% ${to.toFixed(3)}%`);
    at = Math.max(at, to);
  });
  return `linear-gradient(to right, ${stops.join(",")}, transparent ${at.toFixed(3)}%)`;
}
function makeBar(attempt) {
  const outcome = attempt.failed ? "failed" : attempt.task.state;
  const place = attempt.where ? ` on ${shown(attempt.where.host)}` : "";
  const bar = el("a", {class: "bar" + (attempt.failed ? " bad" : ""), href: "#tasks-h", tabindex: "-1",
    "aria-label": `${shown(attempt.task.name)}, attempt ${attempt.number}, ${outcome}${place}, ${seconds(attempt.end - attempt.start)}`});
  bar.style.left = `${percent(attempt.start - zero)}%`;
  if (attempt.phases.length) {
    const strip = el("i");
    strip.style.background = phaseStops(attempt);
    bar.style.width = `${percent(attempt.end - attempt.start)}%`;
    bar.append(el("b", {}, (attempt.failed ? "✕ " : "") + shown(attempt.task.name)), strip);
  } else {
    bar.classList.add("point");
    bar.append("✕");
  }
  bar.attempt = attempt;
  attempt.bar = bar;
  lanes[attempt.lane].bars.push(bar);
}
function laneLabel(lane) {
  if (lane.worker === null) return "";
  const worker = shown(lane.worker), slots = new Set(lanes.filter(l => l.host === lane.host && l.worker === lane.worker).map(l => l.slot));
  return slots.size < 2 ? worker : `${worker} · ${lane.slot}`;
}
function laneRow(lane) {
  const track = el("div", {class: "track"}), label = laneLabel(lane);
  const title = [lane.worker, lane.slot].filter(part => part !== null).map(shown).join(" · slot ");
  track.append(...lane.bars);
  return el("div", {class: "row lane"}, el("div", {class: "side", title}, el("span", {}, label)), track);
}
function hostRow(host, its) {
  const busy = sum(attempts.filter(a => (a.where?.host ?? null) === host).map(a => a.busy)) + (left.busy[host ?? ""] ?? 0);
  const share = its.length && host !== null ? `${plural(its.length, "lane")}, ${Math.round(100 * busy / its.length / span)} % busy` : "";
  return el("div", {class: "row host"}, el("div", {class: "side"}, el("strong", {}, host === null ? "Unknown host" : shown(host)), el("span", {class: "soft"}, share)));
}
function busyRow(drawn) {
  const parts = 800, width = span / parts, load = new Float64Array(parts);
  for (const a of drawn) {
    const first = Math.max(0, Math.floor((a.start - zero) / width)), last = Math.min(parts - 1, Math.floor((a.end - zero) / width));
    for (let n = first; n <= last; n++) {
      const from = zero + n * width;
      load[n] += Math.max(0, Math.min(a.end, from + width) - Math.max(a.start, from)) / width;
    }
  }
  const top = Math.max(1, ...load);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path");
  svg.setAttribute("viewBox", `0 0 ${parts} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  let line = "M0 1";
  load.forEach((n, at) => { line += `V${(1 - 0.88 * n / top).toFixed(3)}H${at + 1}`; });
  path.setAttribute("d", line + "V1Z");
  svg.append(path);
  return el("div", {class: "row busy"}, el("div", {class: "side"}, el("span", {}, "Busy slots"),
    el("span", {class: "soft"}, `up to ${Math.ceil(top - 0.01)}`)), el("div", {class: "track"}, svg));
}
function drawTicks() {
  const track = $("tl").querySelector(".axis .track"), width = track.clientWidth;
  const least = 92 * span / width, day = 86400;
  const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
    3600, 7200, 10800, 21600, 43200, day].find(s => s >= least) ?? Math.ceil(least / day) * day;
  const side = width ? $("tl").querySelector(".axis .side").offsetWidth : 0;
  const from = Math.floor(Math.max(0, $("tl").scrollLeft) / width * span / step);
  const to = Math.min(span / step, ($("tl").scrollLeft + $("tl").clientWidth - side) / width * span / step);
  const ticks = [];
  for (let n = from; n <= to; n++) {
    const tick = el("span", {class: "tick"}, tickText(n * step, step));
    tick.style.left = `${percent(n * step)}%`;
    ticks.push(tick);
  }
  track.replaceChildren(...ticks);
  $("tl").style.setProperty("--grid", `${width * step / span}px`);
}
function tickText(t, step) {
  if (t === 0) return "0";
  if (step < 1 && t < 60) return `${+t.toFixed(3)} s`;
  const whole = Math.floor(t + 1e-9), two = n => String(n).padStart(2, "0");
  const part = step < 1 ? (t - whole).toFixed(3).slice(1).replace(/0+$/, "") : "";
  if (t < 60) return `${whole} s`;
  if (t < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)}${part}`;
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}${part}`;
}
function resize() {
  const side = $("tl").querySelector(".axis .side").offsetWidth;
  const width = Math.min(4e6, Math.max(120, $("tl").clientWidth - side - SIDE_GAP) * zoom);
  $("tl").style.setProperty("--track", `${width}px`);
  if ($("tl").classList.contains("roomy"))
    for (const a of attempts) a.bar?.classList.toggle("thin", (a.end - a.start) / span * width < 34);
  drawTicks();
}
function zoomTo(wanted, clientX = null) {
  const tl = $("tl"), side = tl.querySelector(".axis .side").offsetWidth;
  const at = clientX === null ? (tl.clientWidth - side) / 2 : Math.max(0, clientX - tl.getBoundingClientRect().left - side);
  const before = (tl.scrollLeft + at) / tl.querySelector(".axis .track").clientWidth;
  zoom = Math.min(4000, Math.max(1, wanted));
  resize();
  tl.scrollLeft = before * tl.querySelector(".axis .track").clientWidth - at;
  drawTicks();
}
function drawTimeline() {
  if (!attempts.length) return;
  $("timeline").hidden = false;
  const drawn = attempts.slice(0, MOST_BARS), tl = $("tl");
  if (drawn.length < attempts.length) $("cut").textContent = ` The first ${MOST_BARS.toLocaleString("en")} of ${attempts.length.toLocaleString("en")} attempts are drawn.`;
  else if (left.attempts) $("cut").textContent = ` ${attempts.length.toLocaleString("en")} of ${tries.toLocaleString("en")} attempts are drawn.`;
  drawn.sort((a, b) => a.start - b.start).forEach(makeBar);
  tl.classList.add(lanes.length <= 12 && drawn.length <= 400 ? "roomy" : lanes.length <= 32 ? "dense" : "densest");
  const rows = [el("div", {class: "row axis"}, el("div", {class: "side"}, "Time"), el("div", {class: "track"}))];
  if (lanes.length > 1 && !left.attempts) rows.push(busyRow(drawn));
  for (const host of new Set(lanes.map(lane => lane.host))) {
    const its = lanes.filter(lane => lane.host === host);
    rows.push(hostRow(host, its), ...its.map(laneRow));
  }
  tl.append(...rows);
  const named = (colour, text, more = "") => el("span", {}, el("span", {class: "swatch" + more, style: `--c:var(${colour})`}), text);
  $("legend").append(...PHASES.map((phase, n) => named(PHASE_COLOURS[n], phase, n === 2 ? " steps" : "")),
    attempts.some(a => a.failed) ? named("--bad", "failed attempt", " bad") : "");
  if (lanes.some(lane => lane.bars.length)) point(lanes.find(lane => lane.bars.length).bars[0], false);
  new ResizeObserver(resize).observe(tl);
  resize();
}
function point(bar, focus = true) {
  if (current) current.tabIndex = -1;
  current = bar;
  bar.tabIndex = 0;
  if (focus) bar.focus();
}
function neighbour(bar, key) {
  const lane = bar.attempt.lane, bars = lanes[lane].bars, at = bars.indexOf(bar);
  if (key === "ArrowRight") return bars[at + 1];
  if (key === "ArrowLeft") return bars[at - 1];
  const step = key === "ArrowDown" ? 1 : -1;
  for (let n = lane + step; n >= 0 && n < lanes.length; n += step)
    if (lanes[n].bars.length)
      return lanes[n].bars.reduce((best, b) => Math.abs(b.attempt.start - bar.attempt.start) < Math.abs(best.attempt.start - bar.attempt.start) ? b : best);
  return undefined;
}
function fillTip(a) {
  const facts = [], colours = phaseColours(a);
  a.phases.forEach((phase, n) => {
    const dot = el("span", {class: "swatch", style: `--c:var(${colours[n]})`});
    facts.push(el("dt", {}, dot, shown(phase.name)), el("dd", {}, seconds(phase.seconds)));
  });
  const more = [["waited for a slot", a.phases.length && a.start > a.submitted ? seconds(a.start - a.submitted) : null],
    ["mirrored", a.bytes_mirrored ? bytes(a.bytes_mirrored) : null], ["job inputs fetched", a.bytes_shared ? bytes(a.bytes_shared) : null],
    ["CPU time", a.cpu_seconds ? seconds(a.cpu_seconds) : null], ["peak memory", a.peak_memory ? bytes(a.peak_memory) : null]];
  for (const [name, value] of more) if (value) facts.push(el("dt", {class: "soft"}, name), el("dd", {}, value));
  const outcome = a.failed ? "failed" : a.task.state;
  $("tip").replaceChildren(el("strong", {}, stateMark(outcome), shown(a.task.name)),
    el("div", {class: "soft"}, `${outcome}, attempt ${a.number} of ${a.task.attempts.length}, from ${seconds(a.start - zero)} on, ${a.phases.length ? `for ${seconds(a.end - a.start)}` : "no phase known"}`),
    a.where ? el("div", {class: "soft"}, `${shown(a.where.host)} / ${shown(a.where.worker)} / ${a.where.pid}`) : "",
    el("dl", {}, ...facts), a.failed ? el("div", {class: "error"}, shown((a.error ?? a.error_type).slice(0, 300))) : "");
}
function showTip(bar) {
  fillTip(bar.attempt);
  const tip = $("tip"), box = bar.getBoundingClientRect(), view = $("tl").getBoundingClientRect();
  tip.hidden = false;
  bar.setAttribute("aria-describedby", "tip");
  const left = Math.max(box.left, view.left), below = box.bottom + 8;
  tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 12))}px`;
  tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : Math.max(8, box.top - tip.offsetHeight - 8)}px`;
}
const hideTip = () => { $("tip").hidden = true; };
function listen() {
  const tl = $("tl"), barOf = event => event.target.closest?.(".bar");
  tl.addEventListener("pointerover", event => { const bar = barOf(event); if (bar) showTip(bar); else hideTip(); });
  tl.addEventListener("pointerleave", hideTip);
  tl.addEventListener("focusin", event => { const bar = barOf(event); if (bar) showTip(bar); });
  tl.addEventListener("focusout", hideTip);
  tl.addEventListener("click", event => {
    const bar = barOf(event);
    if (!bar) return;
    event.preventDefault();
    reveal(bar.attempt.task);
  });
  tl.addEventListener("keydown", event => {
    const bar = barOf(event), next = bar && event.key.startsWith("Arrow") ? neighbour(bar, event.key) : null;
    if (next) { event.preventDefault(); point(next); }
    if (event.key === "Escape") hideTip();
    const factor = {"+": 2, "=": 2, "-": 0.5, "0": 0}[event.key];
    if (factor !== undefined && !event.ctrlKey && !event.metaKey) {
      const box = bar?.getBoundingClientRect();
      zoomTo(zoom * factor, box ? box.left + box.width / 2 : null);
    }
  });
  tl.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    hideTip();
    zoomTo(zoom * Math.exp(-event.deltaY / 250), event.clientX);
  }, {passive: false});
  tl.addEventListener("scroll", () => { hideTip(); drawTicks(); });
  $("in").onclick = () => zoomTo(zoom * 2);
  $("out").onclick = () => zoomTo(zoom / 2);
  $("fit").onclick = () => zoomTo(1);
  addEventListener("beforeprint", () => {
    zoom = 1;
    if (attempts.length) { tl.style.setProperty("--track", "800px"); drawTicks(); }
  });
  addEventListener("afterprint", () => attempts.length && resize());
}

// The table.
const COLUMNS = [
  ["Task", t => t.name, null, "text first"], ["State", t => Object.keys(STATES).indexOf(t.state), null, "text"],
  ["Host", t => t.host, null, "text"], ["Worker", t => t.worker, null, "text worker"], ["Attempts", t => t.attempts.length, null, ""],
  ["Job pre", t => t.phase[0], seconds, ""], ["Task pre", t => t.phase[1], seconds, ""], ["Steps", t => t.phase[2], seconds, ""],
  ["Task post", t => t.phase[3], seconds, ""], ["Total", t => t.total, seconds, ""], ["Mirrored", t => t.bytes, bytes, ""],
  ["CPU", t => t.cpu, seconds, ""], ["Memory", t => t.memory, bytes, ""], ["Why", t => t.reason, null, "text why"],
];
const HINTS = {"Job pre": "job prephase of the last attempt", "Task pre": "task prephase of the last attempt", Steps: "steps of the last attempt",
  "Task post": "task postphase of the last attempt", Total: "all phases of all attempts", Mirrored: "bytes of all attempts", CPU: "CPU time of all attempts", Memory: "most memory in use"};
const collator = new Intl.Collator("en", {numeric: true});
const wanted = {words: "", host: "", states: new Set(), column: null, down: false, most: MOST_ROWS};

function cell(task, [name, value, format, type]) {
  if (name === "Task") return el("th", {scope: "row", class: type, title: shown(task.name)},
    el("button", {class: "plain", "aria-expanded": "false", onclick: () => toggle(task)}, shown(task.name)));
  if (name === "State") return el("td", {class: type}, stateMark(task.state), task.state);
  const is = value(task);
  if (name === "Attempts") return el("td", {class: is ? "" : "none"}, is ? String(is) : "–");
  if (is === null || is === "") return el("td", {class: type + " none"}, format ? "–" : "");
  return el("td", {class: type, title: format ? null : shown(is)}, format ? format(is) : shown(is));
}
function rowOf(task) {
  task.row ??= el("tr", {class: "task", id: "t" + task.index}, ...COLUMNS.map(column => cell(task, column)));
  return task.detail ? [task.row, task.detail] : [task.row];
}
function selected() {
  const words = wanted.words.toLowerCase().split(/\s+/).filter(Boolean);
  const some = report.tasks.filter(task => (!wanted.states.size || wanted.states.has(task.state))
    && (!wanted.host || task.host === wanted.host) && words.every(word => task.words.includes(word)));
  if (wanted.column === null) return some;
  const value = COLUMNS[wanted.column][1], sign = wanted.down ? -1 : 1;
  return some.sort((a, b) => {
    const x = value(a), y = value(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? collator.compare(x, y) : x - y);
  });
}
function drawRows() {
  const some = selected(), more = some.length - wanted.most;
  $("rows").replaceChildren(...some.slice(0, wanted.most).flatMap(rowOf));
  $("shown").textContent = (some.length === report.tasks.length ? plural(some.length, "task")
    : `${some.length.toLocaleString("en")} of ${plural(report.tasks.length, "task")}`) + (left.tasks ? `; ${left.tasks.toLocaleString("en")} more in report.json only` : "");
  $("more").hidden = more <= 0;
  $("more").firstElementChild.textContent = `Show ${Math.min(more, MOST_ROWS).toLocaleString("en")} more`;
  if (some.length < report.tasks.length || filtered) {
    const in_ = new Set(some);
    for (const a of attempts) a.bar?.classList.toggle("off", !in_.has(a.task));
    filtered = some.length < report.tasks.length;
  }
}
let filtered = false;
function detailOf(task) {
  const box = el("div", {class: "box"});
  const part = (title, ...content) => { if (content.some(Boolean)) box.append(el("h4", {}, title), ...content.filter(Boolean)); };
  part("Why", task.why ? el("div", {}, shown(task.why)) : null);
  const heads = ["Attempt", "Where", "Phases", "Mirrored", "CPU", "Memory", "Error"];
  const lines = task.attempts.map(a => el("tr", {}, el("th", {scope: "row"}, stateMark(a.failed ? "failed" : task.state), String(a.number)),
    el("td", {}, a.where ? `${shown(a.where.host)} / ${shown(a.where.worker)} / ${a.where.pid}` : "–"),
    el("td", {}, a.phases.map(p => `${shown(p.name)} ${seconds(p.seconds)}`).join(", ") || "–"),
    el("td", {class: "number"}, bytes(a.bytes_mirrored)), el("td", {class: "number"}, seconds(a.cpu_seconds)), el("td", {class: "number"}, a.peak_memory ? bytes(a.peak_memory) : "–"),
    el("td", {}, a.error ? el("pre", {}, logText(a.error)) : shown(a.error_type ?? ""))));
  const before = report.after[task.name] ?? [];
  part("Waited for", before.length ? el("div", {}, shown(before.slice(0, 30).join(", ")) + (before.length > 30 ? ` and ${before.length - 30} more` : "")) : null);
  const inputs = (task.inputs ?? []).map(one => el("tr", {}, el("th", {scope: "row"}, shown(one.path)), el("td", {}, shown(one.target)),
    el("td", {class: "number"}, bytes(one.size)), el("td", {}, moment(one.mtime_ns / 1e9))));
  const all = inputs.length + (task.more_inputs ?? 0);
  part(`Inputs (${all > inputs.length ? `the first ${inputs.length} of ${all.toLocaleString("en")}` : all})`, inputs.length ? el("table", {},
    el("thead", {}, el("tr", {}, ...["File", "In its folder", "Size", "Date"].map(h => el("th", {scope: "col"}, h)))), el("tbody", {}, ...inputs)) : null);
  part("Attempts", lines.length ? el("table", {}, el("thead", {}, el("tr", {}, ...heads.map(h => el("th", {scope: "col"}, h)))), el("tbody", {}, ...lines)) : null);
  part(`Outputs (${task.made > task.outputs.length ? `the first ${task.outputs.length} of ${task.made.toLocaleString("en")}` : task.made})`, task.outputs.length ? el("ul", {}, ...task.outputs.map(o =>
    el("li", {}, o.href ? el("a", {href: o.href}, shown(o.path)) : shown(o.path), el("span", {class: "soft"}, "  " + bytes(o.size))))) : null);
  const given = Object.entries(task.parameters ?? {}).map(([name, value]) => `${name} = ${value}`);
  part("Arguments", given.length ? el("div", {}, shownLine(given.join(", ").slice(0, 2000))) : null);
  part("Returned", typeof task.value === "string" ? el("pre", {}, shownLine(task.value)) : null);
  part("Log", logBox(task.log_tail), logLinks(task).length ? el("div", {class: "links"}, ...logLinks(task)) : null);
  if (!box.children.length) box.append(el("div", {class: "soft"}, "Nothing more is known of this task."));
  return el("tr", {class: "detail"}, el("td", {colspan: String(COLUMNS.length)}, box));
}
function toggle(task, open = !task.detail) {
  const [row] = rowOf(task);
  if (open && !task.detail) { task.detail = detailOf(task); row.after(task.detail); }
  if (!open && task.detail) { task.detail.remove(); task.detail = null; }
  row.querySelector(".plain").setAttribute("aria-expanded", String(open));
}
function reveal(task) {
  hideTip();
  if (!selected().slice(0, wanted.most).includes(task)) {
    Object.assign(wanted, {words: "", host: "", states: new Set(), most: Infinity});
    $("find").value = $("host").value = "";
    drawTools();
    drawRows();
  }
  toggle(task, true);
  task.row.scrollIntoView({block: "center"});
  task.row.querySelector(".plain").focus({preventScroll: true});
}
function sortBy(column) {
  const same = wanted.column === column;
  wanted.down = same ? !wanted.down : !COLUMNS[column][3].includes("text");
  wanted.column = column;
  [...$("heads").children].forEach((head, n) => head.setAttribute("aria-sort", n !== column ? "none" : wanted.down ? "descending" : "ascending"));
  drawRows();
}
function drawTools() {
  $("chips").replaceChildren(...Object.keys(STATES).filter(count).map(state => el("button", {class: "btn", "aria-pressed": String(wanted.states.has(state)), onclick: event => {
    if (!wanted.states.delete(state)) wanted.states.add(state);
    event.currentTarget.setAttribute("aria-pressed", String(wanted.states.has(state)));
    drawRows();
  }}, stateMark(state), `${state} ${count(state).toLocaleString("en")}`)));
}
function drawTable() {
  $("heads").append(...COLUMNS.map(([name, , , type], n) => el("th", {scope: "col", class: type.replace(/why|worker/, ""), "aria-sort": "none"},
    el("button", {title: HINTS[name], onclick: () => sortBy(n)}, name))));
  const hosts = [...new Set(report.tasks.map(task => task.host).filter(Boolean))].sort(collator.compare);
  $("host").append(el("option", {value: ""}, "All hosts"), ...hosts.map(host => el("option", {value: host}, shown(host))));
  $("host").hidden = hosts.length < 2;
  $("find").oninput = () => { wanted.words = $("find").value; drawRows(); };
  $("host").onchange = () => { wanted.host = $("host").value; drawRows(); };
  $("more").firstElementChild.onclick = () => { wanted.most += MOST_ROWS; drawRows(); };
  drawTools();
  drawRows();
}

// What the services on the job's cluster have done: a table of servers for each.
const SERVER = [["Server", s => String(s.server), "text"], ["Host", s => shown(s.host || "–"), "text"], ["Slot", s => String(s.slot ?? "–"), ""],
  ["State", s => shown(s.state), "text"], ["Calls", s => s.calls.toLocaleString("en"), ""], ["Raised", s => s.failed.toLocaleString("en"), ""],
  ["Busy", s => seconds(s.busy), ""], ["Mean of the last 50", s => s.calls ? seconds(s.mean) : "–", ""]];
function serviceTable(service) {
  const all = [...service.servers, ...service.former];
  const line = s => el("tr", {class: service.former.includes(s) ? "gone" : null}, ...SERVER.map(([, value, type]) => el("td", {class: type}, value(s))));
  const heads = SERVER.map(([name, , type]) => el("th", {scope: "col", class: type}, name));
  const words = [`${service.servers.length} of ${plural(service.wanted, "server")}`, plural(sum(all.map(s => s.calls)), "call"),
    `${seconds(sum(all.map(s => s.busy)))} busy`, `${service.queue} waiting`, `${service.lost} lost`];
  return el("div", {class: "service"}, el("h3", {}, shown(service.service), el("span", {class: "soft", style: "font-weight:400"}, "  " + words.join(", "))),
    all.length ? el("div", {class: "wide", tabindex: "0", role: "region", "aria-label": `Servers of ${shown(service.service)}`},
      el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...all.map(line)))) : null);
}
function drawServices() {
  $("services").hidden = !report.services.length;
  $("service-list").append(...report.services.map(serviceTable));
}

// Time by step, of all tasks.
const STEP = [["Step", s => shown(s.name), "left"], ["Times", s => s.count.toLocaleString("en"), ""], ["Together", s => seconds(s.total), ""],
  ["Mean", s => seconds(s.total / s.count), ""], ["Longest", s => seconds(s.longest), ""]];
function drawSteps() {
  const whole = sum(report.steps.map(s => s.total));
  if (!report.steps.length) return;
  $("steps").hidden = false;
  $("step-heads").append(...STEP.map(([name, , type]) => el("th", {scope: "col", class: type}, name)), el("th", {scope: "col", class: "left part"}, "Part"));
  $("step-rows").append(...report.steps.map(s => {
    const part = whole ? 100 * s.total / whole : 0, colour = PHASE_COLOURS[kind(s)];
    return el("tr", {}, ...STEP.map(([, value, type]) => el("td", {class: type}, value(s))),
      el("td", {class: "left part"}, el("i", {style: `width:${(part * 0.6).toFixed(2)}%;--c:var(${colour})`}), `${part.toFixed(part < 9.95 ? 1 : 0)} %`));
  }));
}

// The order of tasks: similar tasks at the same place share a box, named by a pattern.
const MOST_BOXES = 120, BOX = {width: 210, height: 40, across: 60, down: 14};
function layersOf(after) {
  const names = new Set(Object.keys(after).concat(...Object.values(after))), depth = new Map();
  const deepen = first => {
    const pending = [first];
    while (pending.length) {
      const name = pending[pending.length - 1], before = (after[name] ?? []).filter(one => !depth.has(one));
      if (before.length) pending.push(...before.reverse());
      else { pending.pop(); depth.set(name, Math.max(-1, ...(after[name] ?? []).map(one => depth.get(one))) + 1); }
    }
  };
  names.forEach(deepen);
  return depth;
}
function boxesOf(after, shape) {
  const depth = layersOf(after), boxes = new Map(), boxOf = new Map();
  for (const [name, layer] of depth) {
    const pattern = shape(name), key = layer + "\n" + pattern;
    const box = boxes.get(key) ?? boxes.set(key, {layer, pattern, names: [], before: new Set()}).get(key);
    box.names.push(name);
    boxOf.set(name, box);
  }
  for (const [name, before] of Object.entries(after)) before.forEach(one => boxOf.get(name).before.add(boxOf.get(one)));
  return [...boxes.values()];
}
function drawOrder() {
  if (!Object.keys(report.after).length) return;
  const shapes = [name => name, name => name.replace(/[0-9]+/g, "*"), name => name.replace(/[^A-Za-z].*$/, "*"), () => "*"];
  const boxes = shapes.map(shape => boxesOf(report.after, shape)).find((some, n) => some.length <= (n ? MOST_BOXES : 12)) ?? boxesOf(report.after, shapes[3]);
  const states = new Map(report.tasks.map(task => [task.name, task.state])), rows = [];
  for (const box of boxes) {
    box.row = rows[box.layer] = (rows[box.layer] ?? -1) + 1;
    box.x = 12 + box.layer * (BOX.width + BOX.across);
  }
  const tall = Math.max(...rows) + 1, step = BOX.height + BOX.down;
  for (const box of boxes) box.y = 12 + box.row * step + (tall - rows[box.layer] - 1) * step / 2;
  const width = 24 + rows.length * (BOX.width + BOX.across) - BOX.across, height = 24 + tall * step - BOX.down;
  const svg = (tag, facts, ...inner) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value);
    made.append(...inner);
    return made;
  };
  const picture = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group"});
  for (const box of boxes) for (const from of box.before) {
    const x = from.x + BOX.width, y = from.y + BOX.height / 2, to = box.y + BOX.height / 2, bend = (box.x - x) / 2;
    picture.append(svg("path", {class: "edge", d: `M${x} ${y}C${x + bend} ${y} ${box.x - bend} ${to} ${box.x} ${to}`}));
  }
  for (const box of boxes) {
    const found = Object.keys(STATES).map(state => [state, box.names.filter(name => (states.get(name) ?? "waiting") === state).length]).filter(([, n]) => n);
    const one = box.names.length === 1, label = shown(one ? box.names[0] : box.pattern), cut = label.length > 26 ? label.slice(0, 25) + "…" : label;
    const counts = one ? found[0][0] : found.map(([state, n]) => `${n} ${state}`).join(", ");
    const group = svg("g", {class: "box", transform: `translate(${box.x} ${box.y})`, tabindex: 0, role: "button", "aria-label": `${label}: ${counts}`},
      svg("title", {}, `${label}: ${counts}`), svg("rect", {class: "back", width: BOX.width, height: BOX.height, rx: 7}),
      svg("text", {x: 11, y: 17}, cut), svg("text", {x: 11, y: 31, class: "under"}, counts.length > 34 ? counts.slice(0, 33) + "…" : counts));
    let x = 0;
    for (const [state, n] of found) {
      const part = BOX.width * n / box.names.length;
      group.append(svg("rect", {class: "s-" + STATES[state][1] + " state", x, y: BOX.height - 3, width: part, height: 3}));
      x += part;
    }
    const open = () => {
      const task = report.tasks.find(t => t.name === box.names[0]);
      if (one) return task && reveal(task);
      wanted.words = $("find").value = box.pattern.split("*").sort((a, b) => b.length - a.length)[0];
      drawRows();
      $("find").scrollIntoView({block: "center"});
    };
    group.addEventListener("click", open);
    group.addEventListener("keydown", event => { if (event.key === "Enter") open(); });
    picture.append(group);
  }
  $("order").hidden = false;
  $("graph").append(picture);
}

drawHeader();
drawFailures();
drawTimeline();
listen();
drawTable();
drawServices();
drawSteps();
drawOrder();
followRun();
