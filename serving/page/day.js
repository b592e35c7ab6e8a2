// The page of one day: what was decided and why, how well the model did, who is affected, what changed.

import { chip, el, link, longDay, percent, plural, spoken } from "./bits.js";
import { key, open, say } from "./session.js";
import * as parts from "./evidence.js";

const $ = id => document.getElementById(id);
const DAY = decodeURIComponent(location.pathname.replace(/\/$/, "").split("/").pop());

$("day").textContent = longDay(DAY);
document.title = `Classy: ${DAY}`;

open(`monitor/${DAY}/data`, found => {
  const { evidence, decision } = found;
  $("day").replaceChildren(longDay(found.day), " ", evidence ? chip(evidence.verdict) : "", " ", decision ? chip(decision.action) : "");
  $("around").replaceChildren(
    found.before ? el("a", { href: found.before, rel: "prev" }, `← ${found.before}`) : "",
    found.after ? el("a", { href: found.after, rel: "next" }, `${found.after} →`) : "");
  $("summary").textContent = evidence ? summary(evidence) : "";
  $("links").replaceChildren(...links(found));
  $("notices").replaceChildren(...found.notices.map(text => el("li", {}, ...spoken(text))));
  const stack = (...inside) => el("div", { class: "stack" }, inside);
  $("parts").replaceChildren(...[
    parts.decided(found),
    stack(parts.howWell(evidence), parts.labels(evidence), parts.howSure(evidence)),
    stack(parts.affected(evidence)),
    parts.changed(evidence),
    stack(parts.mix(evidence)), stack(parts.diagnosis(evidence)),
    parts.health(evidence),
  ].filter(part => part?.childElementCount));
});

function summary({ drift = {}, champion, lately, since_drift }) {
  const columns = drift.columns ?? [];
  const changed = columns.filter(one => one.verdict === "DRIFT").length;
  const told = columns.filter(one => one.verdict !== "UNKNOWN").length;
  const who = champion ? `Version ${champion.version} (generation ${champion.generation})` : "No champion";
  const accuracy = lately?.performance?.accuracy?.value;
  const since = since_drift?.performance?.accuracy?.value;
  return [
    `${who}, ${plural(drift.window_rows ?? 0, "photo")}.`,
    changed ? `${changed} of ${told} columns changed.` : told ? `None of ${told} columns changed.` : `Drift cannot be told: ${(drift.reasons ?? []).join("; ") || "it says no reason"}.`,
    accuracy === null || accuracy === undefined ? "Accuracy is not known: no labels." : `Accuracy ${percent(accuracy)}${since === null || since === undefined ? "" : `, ${percent(since)} since the drift began`}.`,
  ].join(" ");
}

function links(found) {
  const made = [
    found.links.report ? el("button", { type: "button", id: "report" }, "Evidently report") : null,
    link(found.links.run, "MLflow run"), link(found.links.version, "Model version"), link(found.links.airflow, "Airflow task"),
  ].filter(Boolean);
  made.find(one => one.id === "report")?.addEventListener("click", report);
  return made;
}

// By a form: a link cannot show a key, and a key in an address would be kept in histories and logs.
function report() {
  const form = el("form", { method: "post", action: `${DAY}/report`, target: "_blank", rel: "noopener", hidden: true },
    el("input", { type: "hidden", name: "key", value: key() }));
  document.body.append(form);
  form.submit();
  form.remove();
}

window.addEventListener("unhandledrejection", event => say(String(event.reason?.message ?? event.reason)));
