// The page at /: photos and addresses in, answers out. What the server says is shown as text, never as markup.

import { showPages } from "./nav.js";
import { about, ask, metadata, tell } from "./server.js";
import { show, fail, wait } from "./cards.js";

const $ = id => document.getElementById(id);
const AT_ONCE = 3; // requests under way together
const KEY = "classy-key";

const state = { keyNeeded: false, classes: [], mayTell: true, done: 0, asked: 0, running: 0 };
const queue = [];

const key = () => $("key").value.trim();

// ---------------------------------------------------------------------------------------------- the model

async function introduce() {
  try {
    const found = await about();
    state.keyNeeded = found.key_needed;
    showPages(found);
    $("server").textContent = [found.name, found.version].filter(Boolean).join(" ");
  } catch (problem) {
    say(problem.message);
    return;
  }
  $("key-field").hidden = $("key-help").hidden = !state.keyNeeded;
  if (state.keyNeeded) $("key").value = sessionStorage.getItem(KEY) ?? "";
  await learn();
}

async function learn() {
  const line = $("model");
  if (state.keyNeeded && !key()) {
    line.textContent = "needs a key";
    return;
  }
  try {
    const found = await metadata(key());
    state.classes = found.properties?.classes ?? [];
    line.textContent = [
      found.properties?.name, found.versions?.length ? `version ${found.versions[0]}` : "",
      state.classes.length ? `${state.classes.length} classes` : "",
    ].filter(Boolean).join(" · ");
    line.classList.remove("model-bad");
  } catch (problem) {
    line.textContent = problem.message;
    line.classList.add("model-bad");
  }
}

// ---------------------------------------------------------------------------------------------- asking

function say(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function add(sources) {
  say("");
  if (!sources.length) return;
  if (state.keyNeeded && !key()) {
    say("This server wants a key: enter it first.");
    $("key").focus();
    return;
  }
  $("answers-head").hidden = false;
  // The newest are on top, in the order in which they were given.
  const cards = sources.map(source => wait(source));
  $("answers").prepend(...cards);
  sources.forEach((source, i) => queue.push({ source, card: cards[i] }));
  state.asked += sources.length;
  count();
  pump();
}

function count() {
  const open = state.asked - state.done;
  $("count").textContent = open ? `${state.done} of ${state.asked}` : `${state.asked} answered`;
}

function pump() {
  while (state.running < AT_ONCE && queue.length) {
    state.running += 1;
    answer(queue.shift()).finally(() => {
      state.running -= 1;
      state.done += 1;
      count();
      pump();
    });
  }
}

async function answer({ source, card }) {
  try {
    const found = await ask(source, { sender: $("sender").value.trim(), key: key() });
    show(card, found, state.mayTell ? { classes: state.classes, tell: truth } : null);
  } catch (problem) {
    const keyProblem = problem.status === 401 || problem.status === 403;
    fail(card, problem, () => {
      state.done -= 1;
      const fresh = wait(source);
      card.replaceWith(fresh);
      queue.push({ source, card: fresh });
      count();
      pump();
    });
    if (keyProblem && state.keyNeeded) {
      say(problem.message);
      $("key").setAttribute("aria-invalid", "true");
      $("key").focus();
    }
  }
}

async function truth(imageId, label) {
  try {
    await tell(imageId, label, key());
  } catch (problem) {
    if (problem.status === 403 || problem.status === 404) {
      // This key may not say it: it is not asked for again.
      state.mayTell = false;
      document.querySelectorAll(".truth").forEach(part => { part.hidden = true; });
      say(`The true class was not taken: ${problem.message}`);
    }
    throw problem;
  }
}

// ---------------------------------------------------------------------------------------------- ways in

const photos = list => [...list].filter(file => file.type.startsWith("image/") || !file.type);
const addresses = text => text.split(/\s+/).filter(Boolean);

function askUrls(text) {
  const found = addresses(text);
  const wrong = found.filter(address => !/^https?:\/\/[^/]/i.test(address));
  if (wrong.length) {
    say(`${wrong[0].slice(0, 80)} is no address: it must start with https:// or http://`);
    return false;
  }
  add(found.map(url => ({ url })));
  return found.length > 0;
}

function askFiles(list) {
  const found = photos(list);
  if (list.length && !found.length) say(`${list[0].name} is no photo`);
  else add(found.map(file => ({ file })));
}

$("files").addEventListener("change", event => {
  askFiles(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});

$("by-url").addEventListener("submit", event => {
  event.preventDefault();
  if (askUrls($("urls").value)) {
    $("urls").value = "";
    grow();
  }
});

function grow() {
  const area = $("urls");
  area.rows = Math.min(8, Math.max(1, area.value.split("\n").length));
}

$("urls").addEventListener("input", grow);
$("urls").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("by-url").requestSubmit();
  }
});

$("key").addEventListener("change", () => {
  sessionStorage.setItem(KEY, key());
  $("key").removeAttribute("aria-invalid");
  state.mayTell = true;
  say("");
  learn();
});

document.addEventListener("paste", event => {
  const data = event.clipboardData;
  if (data.files.length) {
    event.preventDefault();
    askFiles(data.files);
  } else if (!event.target.closest("input, textarea") && data.getData("text").trim()) {
    event.preventDefault();
    askUrls(data.getData("text"));
  }
});

let depth = 0; // dragging over a child leaves the parent and enters again
document.addEventListener("dragenter", event => {
  event.preventDefault();
  depth += 1;
  $("drop").classList.add("over");
});
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("dragleave", () => {
  depth -= 1;
  if (!depth) $("drop").classList.remove("over");
});
document.addEventListener("drop", event => {
  event.preventDefault();
  depth = 0;
  $("drop").classList.remove("over");
  const data = event.dataTransfer;
  if (data.files.length) askFiles(data.files);
  else askUrls(data.getData("text/uri-list") || data.getData("text"));
});

$("clear").addEventListener("click", () => {
  queue.length = 0;
  $("answers").querySelectorAll("img[src^=blob]").forEach(image => URL.revokeObjectURL(image.src));
  $("answers").replaceChildren();
  $("answers-head").hidden = true;
  state.asked = state.done = 0;
  say("");
});

introduce();
