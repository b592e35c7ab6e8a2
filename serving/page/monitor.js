// The page at /monitor: what is now, each day on one calendar, and incidents.

import { behind, chip, el, interval, kindOf, longDay, number, percent, plural, shortDay, spoken, table } from "./bits.js";
import { draw, times } from "./calendar.js";
import { open, say } from "./session.js";

const $ = id => document.getElementById(id);
const RANGES = [30, 90, 366];
const NOTHING = "–";

open("monitor/data", found => {
  document.title = `Classy: monitor of ${found.recipe}`;
  $("notices").replaceChildren(...found.notices.map(text => el("li", {}, ...spoken(text))));
  const days = found.days;
  $("now").hidden = $("story").hidden = !days.length;
  $("troubles").hidden = !found.incidents.length;
  if (!days.length) return;
  now(found);
  choose(found);
  incidents(found);
});

// ---------------------------------------------------------------------------------------------- now

function now(found) {
  const last = found.days.at(-1);
  const champion = found.champions.at(-1);
  const running = found.incidents.find(one => one.open);
  const tile = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "quiet small" }, more));
  $("now").replaceChildren(
    tile("Champion", champion ? `version ${champion.version}` : NOTHING,
      champion ? `since ${shortDay(champion.from)}, generation ${champion.generation}` : "none yet"),
    tile("Accuracy", percent(last.accuracy?.value),
      last.accuracy ? `${bounds(last.accuracy)} on ${plural(last.accuracy.rows, "label")}` : "no labels yet"),
    last.estimate ? tile("Estimate", percent(last.estimate.value), `${bounds(last.estimate)}, without labels`) : "",
    tile("Drift", last.verdict ? chip(last.verdict) : NOTHING, `${shortDay(last.day)}, ${plural(last.rows ?? 0, "photo")}`),
    tile("Decision", last.decision ? chip(last.decision.action) : NOTHING, last.decision ? shortDay(last.day) : "none about the last day"),
    tile("Labels", percent(last.labels?.coverage), last.labels ? `${number(last.labels.labelled)} of ${plural(last.labels.photos, "photo")}` : "not told"),
    tile("Incident", running ? el("strong", { class: "bad" }, "open") : "none", running ? `since ${shortDay(running.from)}` : "nothing is the matter"),
  );
}

const bounds = share => (share.low === null ? "" : `${(100 * share.low).toFixed(1)} to ${(100 * share.high).toFixed(1)}`);

// ---------------------------------------------------------------------------------------------- day by day

function choose(found) {
  const select = $("range");
  const total = found.days.length;
  const ranges = RANGES.filter((count, i) => i === 0 || total > RANGES[i - 1]);
  select.replaceChildren(...ranges.map(count => new Option(total <= count ? `all ${total} days` : `the last ${count} days`, count)));
  select.value = String(ranges.find(count => total <= count && count <= 90) ?? Math.min(90, ranges.at(-1)));
  const show = () => shown(found, Number(select.value));
  select.addEventListener("change", show);
  new ResizeObserver(show).observe($("calendar"));
}

let selected = null;

function shown(found, count) {
  const days = found.days.slice(-count);
  selected = days.find(day => day.day === selected)?.day ?? days.at(-1).day;
  const tell = (day, column) => {
    selected = day.day;
    readout(found, day, column);
  };
  $("calendar").replaceChildren(...draw({ ...found, days }, $("calendar").clientWidth, tell, selected));
  const scroll = $("calendar").querySelector(".scroll");
  scroll.scrollLeft = scroll.scrollWidth;
  tell(days.find(day => day.day === selected));
  legend(days);
  if (!$("tables").childElementCount || $("tables").dataset.count !== String(count)) tables(found, days, count);
}

function readout(found, day, column) {
  const drifted = day.drift.map((cell, i) => [found.columns[i], cell]).filter(([, cell]) => cell?.[0] === "DRIFT");
  drifted.sort(([, one], [, other]) => times(other) - times(one));
  const named = drifted.slice(0, 3).map(([name, cell]) => `${name} ${times(cell).toFixed(1)}×`);
  const facts = [
    day.watched ? `${plural(day.rows ?? 0, "photo")}${day.champion ? ` of version ${day.champion.version}` : ""}` : "Not watched: no evidence of this day.",
    day.accuracy ? `Accuracy ${interval(day.accuracy, "label")}` : "",
    day.since_drift ? `since the drift began ${interval(day.since_drift, "label")}` : "",
    day.estimate ? `estimated ${interval(day.estimate, "photo")}` : "",
  ].filter(Boolean);
  const cell = column === undefined ? null : day.drift[column];
  $("readout").replaceChildren(
    el("p", { class: "head" }, el("a", { href: `monitor/${day.day}` }, longDay(day.day)), " ",
      day.verdict ? chip(day.verdict) : "", " ", day.decision ? chip(day.decision.action) : ""),
    el("p", { class: "small" }, `${facts.join("; ")}.`),
    el("p", { class: "small clamp" }, day.decision?.reason ?? (day.verdict === "UNKNOWN" ? day.reason : day.watched ? "Nothing was decided about this day yet." : "")),
    el("p", { class: "quiet small" }, cell ? words(found.columns[column], cell)
      : named.length ? `Changed, by how often the limit: ${named.join(", ")}${drifted.length > 3 ? ` and ${drifted.length - 3} more` : ""}.` : "\u00a0"),
  );
}

const words = (name, cell) => (cell[1] === null ? `${name}: ${cell[0]}`
  : `${name}: ${cell[0]}, distance ${cell[1]}${cell[2] ? `, ${times(cell).toFixed(2)} times its limit of ${cell[2]}` : ""}`);

function legend(days) {
  const key = (classes, text) => el("span", { class: `key ${classes}` }, text);
  $("legend").replaceChildren(
    key("line", "accuracy, with its 95% interval"),
    days.some(day => day.since_drift) ? key("since", "since the drift began") : "",
    days.some(day => day.estimate) ? key("estimate", "estimate without labels") : "",
    key("reference", "when it was promoted"),
    key("calm", "no drift: the darker, the nearer to the limit"), key("drift", "DRIFT"), key("unknown", "UNKNOWN"),
  );
}

// ---------------------------------------------------------------------------------------------- in words

function tables(found, days, count) {
  const newest = days.toReversed();
  const dayLink = day => el("a", { href: `monitor/${day}` }, day);
  $("tables").dataset.count = String(count);
  $("tables").replaceChildren(
    behind("The days as a table", table("Days", ["Day", "Champion", "Drift", "Photos", "Accuracy", "Estimate", "Labels", "Decision", "Reason"],
      newest.map(day => [dayLink(day.day), day.champion?.version, day.verdict ?? "not watched", number(day.rows),
        day.accuracy ? interval(day.accuracy, "label") : NOTHING, day.estimate ? interval(day.estimate, "photo") : NOTHING,
        percent(day.labels?.coverage), day.decision?.action, day.decision?.reason]))),
    behind("The drift of each column as a table", table("Drift by column", ["Column", ...newest.map(day => day.day)],
      found.columns.map((name, i) => [name, ...newest.map(day => told(day.drift[i]))]))),
    behind("Champions and contenders as a table", table("Champions", ["Version", "From", "Until", "Generation", "How", "Who", "Why"],
      found.champions.toReversed().map(one => [one.version, dayLink(one.from), one.until ?? "now", number(one.generation), one.kind, one.actor, one.reason])),
      table("Judged", ["Day", "Verdict", "Asked for by", "Reason"],
        found.judged.toReversed().map(one => [dayLink(one.day), one.action, one.run_key, one.reason]))),
  );
  if (found.more_columns) $("tables").append(el("p", { class: "quiet small" }, `${found.more_columns} more columns stayed farther from their limits.`));
}

const told = cell => (!cell ? NOTHING : cell[1] === null ? cell[0] : `${cell[0]} ${cell[1]} of ${cell[2]}`);

function incidents(found) {
  const rows = found.incidents.toReversed().map(one => el("li", {},
    el("a", { href: `monitor/${one.from}` }, one.name), one.open ? el("strong", { class: "bad" }, " open") : "",
    el("span", { class: "quiet" }, ` ${shortDay(one.from)} to ${one.open ? "now" : shortDay(one.until)}: `),
    ...one.actions.map(action => el("span", { class: `chip ${kindOf(action)}` }, action))));
  $("incidents").replaceChildren(el("ul", { class: "plain-list" }, rows));
}

window.addEventListener("unhandledrejection", event => say(String(event.reason?.message ?? event.reason)));
