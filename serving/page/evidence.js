// Parts of a day's page. Each takes what was found and gives a section, or null where the evidence has nothing of it.

import { behind, chance, chip, el, interval, number, percent, plural, shortDay, spoken, table } from "./bits.js";

const MOST = 12; // lines before the rest is put away

let made = 0;
function section(title, classes, ...inside) {
  const id = `part-${made += 1}`;
  return el("section", { class: `card ${classes}`, "aria-labelledby": id }, el("h3", { id }, title), ...inside);
}
const said = sentences => el("ul", { class: "said" }, sentences.filter(Boolean).map(text => el("li", {}, ...spoken(text))));
const plain = value => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? number(value) : String(value));
const named = name => name.replaceAll("_", " ");
const pairs = (caption, given) => table(caption, ["What", "Value"], Object.entries(given).map(([name, value]) => [named(name), plain(value)]));

// ---------------------------------------------------------------------------------------------- decision

export function decided({ decision, answer, evidence, day }) {
  if (!decision) return evidence ? section("What was decided", "whole-row", el("p", {}, "Nothing yet.")) : null;
  const kept = decision.evidence ?? {};
  const { judged, generation } = answer ?? {};
  return section("What was decided, and why", "whole-row",
    el("p", {}, chip(decision.action), " ", decision.reason),
    said([
      decision.incident && `It belongs to ${decision.incident}.`,
      decision.run_key && `Asked for under the run key ${decision.run_key}.`,
      decision.run_key && decision.action === "RETRAIN" && !judged && "No judge has answered it yet.",
      judged && `The judge said ${judged.action} to the contender.`,
      generation && `It made generation ${generation.generation}: version ${generation.champion_version} serves.`,
      `Decided by ${decision.actor}, on the evidence with SHA-256 ${(decision.evidence_hash ?? "unknown").slice(0, 12)}…`,
    ]),
    judged ? behind("What the judge said", el("p", {}, judged.reason)) : null,
    kept.evidence ? behind("What the policy looked at", pairs(`Evidence of ${day}`, kept.evidence)) : null,
    kept.rules ? behind("Its rules", pairs("Rules", kept.rules)) : el("p", { class: "quiet small" }, "An earlier Classy decided this: it kept no evidence with it."));
}

// ---------------------------------------------------------------------------------------------- intervals

// name | a dot with its interval between 0 and 100 % | value | rows. `guide`: a share that is drawn through all.
function measured(caption, rows, guide) {
  const at = share => `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`;
  const piece = (classes, style) => {
    const found = el("i", { class: classes });
    Object.assign(found.style, style);
    return found;
  };
  const track = ({ share }) => el("div", { "aria-hidden": "true" },
    guide === null || guide === undefined ? null : piece("guide", { left: at(guide) }),
    share.low === null || share.low === undefined ? null : piece("span", { left: at(share.low), width: at(share.high - share.low) }),
    piece("dot", { left: at(share.value) }));
  const line = row => (row.share?.value === null || row.share?.value === undefined
    ? el("tr", {}, el("th", { scope: "row", class: "name" }, row.name), el("td", { colspan: "4", class: "quiet" }, row.none ?? "not known: no labels"))
    : el("tr", { class: row.classes }, el("th", { scope: "row", class: "name", title: row.name }, row.name), el("td", { class: "track" }, track(row)),
      el("td", { class: "n" }, percent(row.share.value)),
      el("td", { class: "n quiet bounds" }, row.share.low === null || row.share.low === undefined ? "" : `${(100 * row.share.low).toFixed(1)}–${(100 * row.share.high).toFixed(1)}`),
      el("td", { class: "n quiet" }, row.share.rows ? number(row.share.rows) : "")));
  const whole = list => el("table", { class: "measure" }, el("caption", { class: "hear" }, caption),
    el("thead", { class: "hear" }, el("tr", {}, ["Of", "Picture", "Share", "95% interval", "Photos"].map(text => el("th", { scope: "col" }, text)))),
    el("tbody", {}, list.map(line)));
  const rest = rows.slice(MOST);
  return [whole(rows.slice(0, MOST)), rest.length ? behind(`${rest.length} more`, whole(rest)) : null];
}

export function howWell(evidence) {
  if (!evidence?.lately) return null;
  const { lately, since_drift: since, reference_accuracy: before, estimate, cohorts } = evidence;
  const rows = [{ name: "when promoted", share: before }, { name: lately.since ? `lately, since ${shortDay(lately.since.slice(0, 10))}` : "lately", share: lately.performance?.accuracy }];
  if (since) rows.push({ name: "since the drift began", share: since.performance.accuracy, classes: "worse" });
  if (estimate) rows.push({ name: "estimate, no labels", share: estimate, classes: "guess", none: estimate.reason || "cannot be made" });
  const windows = (cohorts?.windows ?? []).map(one => ({ name: [...new Set([one.from, one.until].map(day => shortDay(day.slice(0, 10))))].join(" to "), share: one }));
  return section("How well it does", "wrapped", ...measured("Accuracy", rows, before?.value),
    said([lost(since ?? lately, since ? "since the drift began" : "lately"), ...guessed(estimate)]),
    windows.length ? [el("h4", {}, `Equally old photos (labels of ${plural(cohorts.age_days, "day")})`), ...measured("Accuracy of equally old photos", windows, before?.value)] : null);
}

function lost({ loss }, when) {
  if (!loss || loss.loss === null || loss.loss === undefined) return "What was lost is not known: no labels.";
  const points = (100 * Math.abs(loss.loss)).toFixed(1);
  const luck = `a loss as large has a chance of ${chance(loss.p)} where nothing changed`;
  return loss.loss > 0 ? `${points} points below what it had when promoted, ${when}: ${luck}.` : `${points} points above what it had when promoted, ${when}.`;
}

function guessed(estimate) {
  if (!estimate) return [];
  const { truth, error } = estimate;
  return [
    estimate.method && `The estimate is made by ${estimate.method}.`,
    estimate.value !== null && estimate.reason && estimate.reason,
    truth && `Labels that came since say ${interval(truth)}.`,
    error && `Over ${plural(error.days, "day")} the estimate was ${(100 * error.mean).toFixed(1)} points away on average; its interval held the truth on ${error.covered} of them.`,
  ];
}

export function affected(evidence) {
  if (!evidence) return null;
  const before = evidence.reference_accuracy?.value;
  const line = (name, share) => ({ name, share, classes: before !== undefined && before !== null && share.high !== null && share.high < before ? "worse" : "fine" });
  const worst = rows => rows.filter(row => row.share.rows).sort((one, other) => (one.share.value ?? 2) - (other.share.value ?? 2));
  const groups = new Map();
  for (const one of evidence.slices ?? []) groups.set(one.by, [...(groups.get(one.by) ?? []), line(one.name, one)]);
  if (!groups.size) {
    const classes = (evidence.since_drift ?? evidence.lately)?.performance?.by_class ?? {};
    if (!Object.keys(classes).length) return null;
    groups.set("class", Object.entries(classes).map(([name, share]) => line(name, share)));
  }
  return section("Who is affected", "",
    el("p", { class: "quiet small" }, "Accuracy by slice, the worst first; red: its whole interval is below what the model had when promoted (dotted)."),
    [...groups].flatMap(([by, rows]) => [el("h4", {}, `By ${by}`), ...measured(`Accuracy by ${by}`, worst(rows), before)]));
}

// ---------------------------------------------------------------------------------------------- drift

export function changed(evidence) {
  const columns = evidence?.drift?.columns ?? [];
  if (!columns.length) return null;
  const rank = { DRIFT: 0, UNKNOWN: 1, "NO DRIFT": 2 };
  const sorted = [...columns].sort((one, other) => rank[one.verdict] - rank[other.verdict] || (other.effect ?? 0) - (one.effect ?? 0));
  const drifted = sorted.filter(one => one.verdict === "DRIFT");
  const rest = sorted.filter(one => one.verdict !== "DRIFT");
  const heads = ["Column", "Verdict", "Distance, and its limit", "Distance", "Limit", "p", "Median", "Reference"];
  const whole = (caption, list) => el("div", { class: "wide whole-length", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: "measure" }, el("caption", { class: "hear" }, caption),
      el("thead", {}, el("tr", {}, heads.map(text => el("th", { scope: "col" }, text)))), el("tbody", {}, list.map(columnLine))));
  return section("What changed", "whole-row",
    drifted.length ? whole("Columns that changed", drifted) : el("p", {}, "No column is called changed."),
    rest.length ? behind(`${plural(rest.length, "column")} that did not change, or could not be told`, whole("Other columns", rest)) : null);
}

function columnLine(column) {
  const head = [el("th", { scope: "row", class: "name" }, column.name), el("td", {}, chip(column.verdict))];
  if (column.effect === null || column.effect === undefined) return el("tr", {}, head, el("td", { colspan: "6", class: "quiet" }, column.reason));
  const fill = el("i", { class: "fill" });
  fill.style.width = `${100 * Math.min(1, column.effect)}%`;
  const limit = el("i", { class: "limit" });
  limit.style.left = `${100 * Math.min(1, column.limit)}%`;
  const cells = [column.effect.toFixed(3), column.limit.toFixed(3), chance(column.p), number(column.window_median), number(column.reference_median)];
  return el("tr", { class: column.verdict === "DRIFT" ? "worse" : "fine", title: column.reason }, head,
    el("td", { class: "track" }, el("div", { "aria-hidden": "true" }, fill, limit)), cells.map(text => el("td", { class: "n" }, text)));
}

export function howSure(evidence) {
  const drift = evidence?.drift;
  if (!drift) return null;
  return section("How sure", "", said([
    `${plural(drift.window_rows ?? 0, "photo")} of the window beside ${number(drift.reference_rows ?? 0)} of the champion's own reference.`,
    drift.alpha && `While nothing changes, a window is called drift with a chance of at most ${number(100 * drift.alpha)} %, all its columns together.`,
    drift.permutations ? `The limits come from ${number(drift.permutations)} shuffles of ${drift.shuffled}.` : "Nothing was shuffled: there was too little to compare.",
    drift.min_effect && `A distance below ${drift.min_effect} is called no drift however sure.`,
    evidence.drift_since && `Drift since ${evidence.drift_since}.`,
    evidence.verdict === "UNKNOWN" && `It cannot be told: ${(drift.reasons ?? []).join("; ")}.`,
  ]));
}

export function mix(evidence) {
  const shift = evidence?.drift?.label_shift;
  if (!shift) return null;
  return section("Which classes come more, or less", "", el("p", {}, chip(shift.verdict), " ", shift.reason),
    table("Estimated share of each class", ["Class", "Reference", "Estimated", "95% interval"],
      (shift.classes ?? []).map(one => [one.name, percent(one.reference), percent(one.estimated), `${percent(one.low)} to ${percent(one.high)}`])));
}

export function diagnosis(evidence) {
  const found = evidence?.drift?.diagnosis;
  if (!found) return null;
  return section("Which photos are new", "", el("p", {}, found.reason),
    said([`A classifier tells window from reference with an AUC of ${number(found.auc)} (p ${chance(found.p)}).`]),
    (found.photos ?? []).length ? behind(`${plural(found.photos.length, "photo")} that are most unlike`, el("ul", { class: "said" }, found.photos.map(id => el("li", {}, id)))) : null);
}

// ---------------------------------------------------------------------------------------------- labels, service

export function labels(evidence) {
  if (!evidence) return null;
  const { labels: given, lately } = evidence;
  const photos = given?.photos ?? lately?.performance?.photos;
  const labelled = given?.labelled ?? lately?.performance?.accuracy?.rows;
  if (photos === undefined || photos === null) return null;
  const delay = given?.delay_days;
  return section("Labels", "", said([
    `${number(labelled)} of ${plural(photos, "photo")} have a label${photos ? ` (${percent(given?.coverage ?? lately?.performance?.coverage)})` : ""}.`,
    delay && `A label comes after ${plural(delay.median, "day")} (median); nine of ten within ${number(delay.p90)}.`,
    evidence.since_drift && `${plural(evidence.fresh_labels ?? 0, "label")} since the drift began.`,
    evidence.labels_known !== undefined && `${plural(evidence.labels_known, "label")} known in all.`,
    ...(given?.notes ?? []),
  ]));
}

export function health(evidence) {
  const rows = evidence?.health;
  if (!rows?.length) return null;
  const bad = { BAD: 0, UNKNOWN: 1, OK: 2 };
  return section("The service", "whole-row", table("Health of the service", ["What", "State", "Value", "Why"],
    [...rows].sort((one, other) => bad[one.state] - bad[other.state]).map(one => [
      named(one.name), chip(one.state), one.value === null ? "–" : `${number(one.value)}${one.unit ? ` ${one.unit}` : ""}`, one.sentence])));
}
