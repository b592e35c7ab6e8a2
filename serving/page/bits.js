// Small parts of the monitor's pages: elements, numbers and days as words. Text is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined && child !== ""));
  return made;
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

export const chip = word => el("span", { class: `chip ${kindOf(word)}` }, word);
export const kindOf = word => (word ?? "none").toLowerCase().replaceAll(" ", "-");

export const percent = share => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)}\u00a0%`);
export const number = value => {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(3)));
};
export const chance = p => (p === null || p === undefined ? "–" : p < 0.0001 ? "below 0.0001" : number(p));
export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

const at = day => new Date(`${day}T00:00:00Z`);
const spelled = options => {
  const format = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", ...options });
  return day => format.format(at(day));
};
export const longDay = spelled({ weekday: "long", day: "numeric", month: "long", year: "numeric" });
export const shortDay = spelled({ day: "numeric", month: "short" });

// 93.1 % [88.0, 96.2] on 140 labelled photos
export function interval(share, of = "labelled photo") {
  if (!share || share.value === null || share.value === undefined) return "not known: no labels";
  const bounds = share.low === null || share.low === undefined ? "" : ` [${(100 * share.low).toFixed(1)}, ${(100 * share.high).toFixed(1)}]`;
  return `${percent(share.value)}${bounds}${share.rows ? ` on ${plural(share.rows, of)}` : ""}`;
}

export function table(caption, heads, rows) {
  const head = el("tr", {}, heads.map(text => el("th", { scope: "col" }, text)));
  const body = rows.map(cells => el("tr", {}, cells.map((cell, i) => (
    i ? el("td", {}, cell ?? "–") : el("th", { scope: "row" }, cell ?? "–")
  ))));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "hear" }, caption), el("thead", {}, head), el("tbody", {}, body)));
}

// `Commands` in a sentence stand out.
export const spoken = text => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

export const behind = (summary, ...inside) => el("details", {}, el("summary", {}, summary), ...inside);

// Addresses come from files and tables: only those of pages become links.
export const link = (url, text, classes = "") => (
  /^https?:\/\//i.test(url ?? "") ? el("a", { href: url, class: classes, rel: "noreferrer" }, text) : null
);
