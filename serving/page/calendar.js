// Days from left to right, what is known of them in lanes below each other: one picture, one link a day.

import { el, kindOf, longDay, percent, shortDay, svg } from "./bits.js";

const LEAST = 13; // pixels of a day: what does not fit is scrolled to
const MOST = 88;
const LANES = { champion: 26, accuracy: 170, decision: 34, incident: 16, labels: 34 };
const GAP = 12;
const CELL = 17;
const AXIS = 22;
const MARKS = { KEEP: "", WATCH: "W", LABEL: "L", RETRAIN: "R", ROLLBACK: "B", PAGE: "!" };

export const times = cell => (cell?.[1] && cell[2] ? cell[1] / cell[2] : 0);

// Gives the names of the lanes, and the days; `tell(day, column)` is called for what is looked at.
export function draw(found, width, tell, selected) {
  const names = width < 560 ? 92 : 132;
  const { days, columns } = found;
  const step = Math.max(LEAST, Math.min(MOST, Math.floor((width - names - 2) / days.length)));
  const top = tops(columns.length);
  const at = { step, top, x: i => i * step, middle: i => (i + 0.5) * step, width: step * days.length, index: new Map(days.map((day, i) => [day.day, i])) };
  const scale = scaled(days, top);
  const picture = svg("svg", { class: "days", width: at.width, height: top.end, role: "group", "aria-label": "Days" },
    svg("defs", {}, svg("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 5, height: 5, class: "hatch-ground" }), svg("rect", { width: 1.5, height: 5, class: "hatch-line" }))),
    champions(found, at), grid(scale, at),
    days.map((day, i) => column(day, i, found, at)),
    incidentSpans(found, at), curves(days, scale, at), axis(days, at),
  );
  moveByKeys(picture, days, tell, selected);
  const scroll = el("div", { class: "scroll" }, picture);
  return [lanes(found, top, scale, names), scroll];
}

function tops(rows) {
  const top = { champion: 0 };
  top.accuracy = LANES.champion + 2 * GAP;
  top.decision = top.accuracy + LANES.accuracy + GAP;
  top.incident = top.decision + LANES.decision;
  top.labels = top.incident + LANES.incident + GAP;
  top.axis = top.labels + LANES.labels + 2;
  top.heat = top.axis + AXIS + 4;
  top.end = top.heat + rows * CELL + 4;
  return top;
}

function lanes(found, top, scale, width) {
  const name = (y, text, title) => svg("text", { x: width - 8, y, class: "lane" }, text, title ? svg("title", {}, title) : null);
  const most = width < 120 ? 13 : 19;
  return svg("svg", { class: "lanes", width, height: top.end, "aria-hidden": "true" },
    name(top.champion + 17, "champion"),
    name(top.accuracy - 6, "accuracy"),
    scale.ticks.map(tick => svg("text", { x: width - 8, y: scale.y(tick) + 4, class: "tick" }, `${Math.round(100 * tick)} %`)),
    name(top.decision + 21, "decision"),
    found.incidents.length ? name(top.incident + 12, "incident") : null,
    name(top.labels + 22, "labels"),
    found.columns.map((text, i) => name(top.heat + i * CELL + 12, text.length > most ? `${text.slice(0, most - 1)}…` : text, text)),
  );
}

// ---------------------------------------------------------------------------------------------- accuracy

function scaled(days, top) {
  const lows = days.flatMap(day => [day.accuracy, day.since_drift, day.estimate]).filter(Boolean).map(share => share.low ?? share.value);
  const least = Math.min(0.9, ...lows);
  const from = Math.max(0, Math.floor(least * 10) / 10);
  const by = 1 - from > 0.5 ? 0.2 : 0.1;
  const ticks = [];
  for (let tick = 1; tick > from - 1e-9; tick -= by) ticks.push(Number(tick.toFixed(2)));
  const height = LANES.accuracy - 8;
  return { ticks, y: value => top.accuracy + 4 + height * (1 - (Math.max(value, from) - from) / (1 - from)) };
}

const grid = (scale, at) => svg("g", { class: "grid" }, scale.ticks.map(tick => svg("line", { x1: 0, x2: at.width, y1: scale.y(tick), y2: scale.y(tick) })));

function curves(days, scale, at) {
  const points = key => days.map((day, i) => (day[key] ? { x: at.middle(i), ...day[key] } : null));
  const runs = list => list.reduce((found, point, i) => {
    if (point && list[i - 1]) found.at(-1).push(point);
    else if (point) found.push([point]);
    return found;
  }, []);
  const line = (run, classes) => svg("polyline", { class: classes, points: run.map(point => `${point.x},${scale.y(point.value)}`).join(" ") });
  const whisker = (point, classes) => (point.low === null || point.low === undefined ? null
    : svg("line", { class: classes, x1: point.x, x2: point.x, y1: scale.y(point.low), y2: scale.y(point.high) }));
  const measured = runs(points("accuracy"));
  const drifted = points("since_drift").filter(Boolean);
  const guessed = runs(points("estimate"));
  const reference = days.map((day, i) => (day.reference === null ? null
    : svg("line", { class: "reference", x1: at.x(i), x2: at.x(i + 1), y1: scale.y(day.reference), y2: scale.y(day.reference) })));
  return svg("g", { class: "curves", "aria-hidden": "true" }, reference,
    measured.map(run => svg("polygon", { class: "ribbon", points: ribbon(run, scale) })),
    measured.flatMap(run => run.map(point => whisker(point, "whisker"))),
    guessed.map(run => line(run, "estimate")),
    guessed.flat().map(point => [whisker(point, "estimate"), svg("rect", { class: "estimate-dot", x: point.x - 3, y: scale.y(point.value) - 3, width: 6, height: 6, transform: `rotate(45 ${point.x} ${scale.y(point.value)})` })]).flat(),
    measured.map(run => line(run, "measured")),
    measured.flat().map(point => svg("circle", { class: "measured-dot", cx: point.x, cy: scale.y(point.value), r: 3.5 })),
    drifted.flatMap(point => [whisker(point, "since"), svg("path", { class: "since-dot", d: `M${point.x - 4.5} ${scale.y(point.value) - 4}h9l-4.5 8z` })]),
  );
}

function ribbon(run, scale) {
  const told = run.filter(point => point.low !== null && point.low !== undefined);
  return [...told.map(point => `${point.x},${scale.y(point.high)}`), ...told.toReversed().map(point => `${point.x},${scale.y(point.low)}`)].join(" ");
}

// ---------------------------------------------------------------------------------------------- bands and spans

function champions(found, at) {
  const last = found.days.length;
  const place = day => at.index.get(day) ?? (day < found.days[0].day ? 0 : last);
  return svg("g", { class: "champions" }, found.champions.map((one, i) => {
    const from = place(one.from);
    const until = one.until ? place(one.until) : last;
    if (from >= until) return null; // not as long as a day, or after the last one
    const x = at.x(from);
    const width = at.x(until) - x;
    // A long band says its name again and again: one of them is in sight wherever the days are scrolled to.
    const often = Math.max(1, Math.floor(width / 240));
    const room = width > 80 ? `version ${one.version}` : width > 20 ? `v${one.version}` : "";
    return svg("g", { class: `band b${i % 4}` },
      svg("rect", { class: "ground", x, y: 0, width, height: at.top.axis }),
      svg("rect", { class: "head", x: x + 1, y: 2, width: width - 2, height: LANES.champion - 4, rx: 5 }),
      Array.from({ length: often }, (_, n) => svg("text", { x: x + (width * (n + 0.5)) / often, y: 18 }, room)),
      svg("title", {}, `Version ${one.version}, generation ${one.generation}, since ${longDay(one.from)}: ${one.reason}`));
  }));
}

const incidentSpans = (found, at) => svg("g", { class: "incidents" }, found.incidents.map(one => {
  const from = at.index.get(one.from) ?? 0;
  const until = at.index.get(one.until);
  if (until === undefined) return null;
  return svg("a", { href: `monitor/${one.from}`, tabindex: "-1", "aria-label": `${one.name}, ${longDay(one.from)} to ${one.open ? "now" : longDay(one.until)}` },
    svg("rect", { class: one.open ? "open" : "over", x: at.x(from) + 2, y: at.top.incident + 3, width: at.x(until + 1) - at.x(from) - 4, height: 9, rx: 4.5 }),
    svg("title", {}, `${one.name}${one.open ? ", open" : ""}`));
}));

function axis(days, at) {
  const every = Math.max(1, Math.ceil(62 / at.step));
  const last = days.length - 1;
  return svg("g", { class: "axis", "aria-hidden": "true" }, days.map((day, i) => ((last - i) % every ? null
    : svg("text", { x: Math.min(Math.max(at.middle(i), 20), at.width - 20), y: at.top.axis + 15 }, shortDay(day.day)))));
}

// ---------------------------------------------------------------------------------------------- a day

function column(day, i, found, at) {
  const { top, step } = at;
  const x = at.x(i);
  return svg("a", { class: "day", href: `monitor/${day.day}`, tabindex: "-1", "data-day": day.day, "aria-label": spoken(day) },
    svg("rect", { class: "whole", x, y: 0, width: step, height: top.end }),
    mark(day, at.middle(i), top.decision + 17),
    coverage(day, x, at),
    day.drift.map((cell, row) => heat(cell, found.columns[row], row, x, at, day)));
}

function spoken(day) {
  const changed = day.drift.filter(cell => cell?.[0] === "DRIFT").length;
  return [
    `${longDay(day.day)}:`,
    day.watched ? `${day.verdict}${changed ? `, ${changed} columns changed` : ""}.` : "not watched.",
    day.accuracy ? `Accuracy ${percent(day.accuracy.value)}.` : "",
    day.since_drift ? `Since the drift began ${percent(day.since_drift.value)}.` : "",
    day.decision ? `${day.decision.action}: ${day.decision.reason}` : "Nothing decided.",
  ].filter(Boolean).join(" ");
}

function mark(day, x, y) {
  if (!day.decision) return day.watched ? svg("text", { class: "undecided", x, y: y + 4 }, "?") : null;
  const { action } = day.decision;
  const radius = action === "KEEP" ? 3.5 : 6.3 + Number(["RETRAIN", "ROLLBACK", "PAGE"].includes(action)) * 2.4;
  return svg("g", { class: `mark ${kindOf(action)}`, "data-action": action },
    svg("circle", { cx: x, cy: y, r: radius }), svg("text", { x, y: y + 3.6 }, MARKS[action] ?? "?"), svg("title", {}, `${action}: ${day.decision.reason}`));
}

function coverage(day, x, at) {
  const share = day.labels?.coverage;
  const height = LANES.labels - 6;
  const y = at.top.labels + 4;
  const ground = svg("rect", { class: "cover-ground", x: x + 2, y, width: at.step - 4, height });
  if (share === null || share === undefined) return day.watched ? ground : null;
  return svg("g", { class: "coverage" }, ground,
    svg("rect", { class: "cover", x: x + 2, y: y + height * (1 - share), width: at.step - 4, height: height * share }),
    svg("title", {}, `Labels of ${percent(share)} of the photos`));
}

function heat(cell, name, row, x, at, day) {
  if (!cell) return null;
  const y = at.top.heat + row * CELL;
  const far = times(cell);
  const [verdict] = cell;
  const told = cell[1] === null ? verdict : `${verdict}, distance ${cell[1]}, limit ${cell[2]}, ${far.toFixed(2)} times it`;
  const strength = verdict === "DRIFT" ? Math.min(1, 0.5 + 0.3 * Math.log2(Math.max(far, 1))) : 0.05 + 0.4 * Math.min(far, 1);
  return svg("g", { class: `cell ${kindOf(verdict)}`, "data-column": row },
    svg("rect", { x: x + 0.5, y: y + 0.5, width: at.step - 1, height: CELL - 1, rx: 2, "fill-opacity": verdict === "UNKNOWN" ? null : strength.toFixed(2) }),
    verdict === "DRIFT" ? svg("circle", { cx: x + at.step / 2, cy: y + CELL / 2, r: 2 }) : null,
    svg("title", {}, `${name}, ${longDay(day.day)}: ${told}`));
}

// ---------------------------------------------------------------------------------------------- looking

// One stop of the Tab key; arrows move from day to day.
function moveByKeys(picture, days, tell, selected) {
  const links = [...picture.querySelectorAll("a.day")];
  let place = days.findIndex(day => day.day === selected);
  const look = (i, columnRow) => {
    links[place].setAttribute("tabindex", "-1");
    links[place].classList.remove("looked");
    place = i;
    links[place].setAttribute("tabindex", "0");
    links[place].classList.add("looked");
    tell(days[place], columnRow);
  };
  links[place].setAttribute("tabindex", "0");
  links[place].classList.add("looked");
  links.forEach((found, i) => {
    found.addEventListener("focus", () => look(i));
    found.addEventListener("pointerover", event => {
      const row = event.target.closest("[data-column]")?.dataset.column;
      look(i, row === undefined ? undefined : Number(row));
    });
  });
  picture.addEventListener("keydown", event => {
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: links.length - 1 }[event.key];
    if (to === undefined || !links[to]) return;
    event.preventDefault();
    links[to].focus();
    links[to].scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
