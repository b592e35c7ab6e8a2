// One photo's card: waiting, answered, or refused.

const percent = share => `${(100 * share).toFixed(share >= 0.9995 || share < 0.0005 ? 0 : 1)} %`;
const shown = ms => (ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2));
const KNOWN = ["download", "preprocess", "features", "queue", "model"]; // a colour each, the same on every card

function element(name, classes, text) {
  const made = document.createElement(name);
  made.className = classes;
  made.textContent = text;
  return made;
}

export function wait(source) {
  const card = document.getElementById("card").content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  if (source.file) {
    image.src = URL.createObjectURL(source.file);
    image.alt = source.file.name || "photo";
    image.hidden = false;
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 100));
    // What the browser cannot show, the server may still read, or explain.
    image.addEventListener("error", () => { image.hidden = true; host(card, "no preview"); });
  } else {
    // A picture from elsewhere is not loaded here: that would tell the other site who looks.
    host(card, new URL(source.url).host);
  }
  card.querySelector(".name").textContent = source.file ? source.file.name : source.url;
  card.querySelector(".name").title = source.file ? source.file.name : source.url;
  return card;
}

function host(card, text) {
  const place = card.querySelector(".host");
  place.textContent = text;
  place.hidden = false;
}

export function show(card, answer, truth) {
  card.setAttribute("aria-busy", "false");
  card.querySelector(".label").textContent = answer.label;
  const list = card.querySelector(".top");
  answer.top.forEach(([name, share], i) => {
    const bar = element("span", "bar", "");
    const fill = document.createElement("i");
    fill.style.width = `${100 * share}%`;
    bar.append(fill);
    bar.setAttribute("aria-hidden", "true");
    const line = document.createElement("dd");
    line.append(bar, element("span", "share", percent(share)));
    list.append(element("dt", i ? "rest" : "first", name), line);
  });
  stages(card, answer);
  chips(card, answer);
  if (truth && answer.imageId) question(card, answer, truth);
}

function stages(card, answer) {
  const parts = Object.entries(answer.timing).filter(([, ms]) => ms > 0);
  const inside = parts.reduce((sum, [, ms]) => sum + ms, 0);
  parts.push(["network", Math.max(0, answer.milliseconds - inside)]);
  const bar = card.querySelector(".stages");
  const legend = card.querySelector(".legend");
  legend.append(element("span", "", `${shown(answer.milliseconds)} ms:`));
  parts.forEach(([name, ms], i) => {
    const known = KNOWN.indexOf(name);
    const colour = i === parts.length - 1 ? "s6" : `s${(known >= 0 ? known : i) % 5 + 1}`;
    const piece = element("i", colour, "");
    piece.style.flexGrow = ms;
    bar.append(piece);
    legend.append(element("b", colour, `${name.replaceAll("_", " ")} ${shown(ms)}`));
  });
  bar.setAttribute("aria-label", `Where the time went: ${parts.map(([name, ms]) => `${name} ${shown(ms)} ms`).join(", ")}`);
  card.querySelector(".where").hidden = false;
}

function chips(card, answer) {
  const row = card.querySelector(".chips");
  const chip = (text, title, mark) => {
    const made = element("span", mark ? "mark" : "", text);
    made.title = title;
    row.append(made);
  };
  if (answer.version) chip(`version ${answer.version}`, "Of the model in the registry");
  if (answer.generation) chip(`generation ${answer.generation}`, "Entry of the ledger that put it into production");
  if (answer.arm) chip(answer.arm, "Which of the models that serve answered");
  if (answer.cached) chip("from memory", "The same photo was answered before by this model", true);
  if (answer.defaulted) chip("sender not known", "Defaults stood in for what is known about a sender", true);
}

function question(card, answer, { classes, tell }) {
  const place = card.querySelector(".truth");
  const select = place.querySelector("select");
  const told = place.querySelector(".told");
  const names = classes.length ? classes : answer.classes;
  select.append(new Option("…", ""));
  names.filter(name => name !== answer.label).forEach(name => select.append(new Option(name, name)));
  const send = async label => {
    place.querySelectorAll("button, select").forEach(control => { control.disabled = true; });
    told.className = "told";
    told.textContent = "…";
    try {
      await tell(answer.imageId, label);
      told.textContent = label === answer.label ? "Thank you." : `Thank you: ${label}.`;
      place.querySelectorAll("button, label, .ask").forEach(control => { control.hidden = true; });
    } catch (problem) {
      told.classList.add("bad");
      told.textContent = problem.message;
      place.querySelectorAll("button, select").forEach(control => { control.disabled = false; });
      select.value = "";
    }
  };
  place.querySelector(".yes").addEventListener("click", () => send(answer.label));
  select.addEventListener("change", () => { if (select.value) send(select.value); });
  place.hidden = false;
}

export function fail(card, problem, again) {
  card.setAttribute("aria-busy", "false");
  card.classList.add("bad");
  card.querySelector(".label").textContent = "No answer";
  const text = card.querySelector(".problem");
  text.textContent = problem.message;
  text.hidden = false;
  if (problem.again) {
    const button = card.querySelector(".again");
    button.hidden = false;
    button.addEventListener("click", again, { once: true });
  }
}
