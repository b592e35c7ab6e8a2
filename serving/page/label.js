// The page at /label: one photo, the classes as keys, one word, the next. The model's answer is not there until one asks.

import { showPages } from "./nav.js";
import { about } from "./server.js";
import { answer, picture, progress, say, take, undo } from "./labels.js";
import { showProgress } from "./tables.js";

const $ = id => document.getElementById(id);
const KEY = "classy-key", NAME = "classy-name";
const KEYS = [..."123456789abcdefghijklmnopqrstuvwxyz"];
const MANY = 20; // classes from which one is found by typing

const state = { who: null, keyNeeded: false, photo: null, passed: [], said: new Map(), keys: new Map(), busy: false };

// ------------------------------------------------------------------------------------------------ who

async function introduce() {
  try {
    const server = await about();
    showPages(server);
    state.keyNeeded = server.key_needed;
  } catch (problem) {
    tell(problem.message);
    return;
  }
  $("key-field").hidden = $("key-help").hidden = !state.keyNeeded;
  $("name-field").hidden = state.keyNeeded;
  $("key").value = sessionStorage.getItem(KEY) ?? "";
  $("name").value = sessionStorage.getItem(NAME) ?? "";
  if (field().value) start();
  else ask();
}

const field = () => $(state.keyNeeded ? "key" : "name");

function ask(problem = "") {
  for (const id of ["work", "done", "progress", "who-line"]) $(id).hidden = true;
  $("who").hidden = false;
  tell(problem);
  field().focus();
}

async function start() {
  const who = state.keyNeeded ? { key: $("key").value.trim() } : { name: $("name").value.trim() };
  try {
    const found = await progress(who);
    state.who = who;
    sessionStorage.setItem(state.keyNeeded ? KEY : NAME, field().value.trim());
    $("who-is").textContent = found.author;
    $("who").hidden = true;
    $("who-line").hidden = false;
    buttons(found.classes);
    showProgress(found);
    await next();
  } catch (problem) {
    ask(problem.message);
  }
}

$("who").addEventListener("submit", event => {
  event.preventDefault();
  if (field().value.trim()) start();
  else ask(state.keyNeeded ? "Enter a key." : "Enter a name: it stands beside your labels.");
});
$("leave").addEventListener("click", () => {
  sessionStorage.removeItem(state.keyNeeded ? KEY : NAME);
  Object.assign(state, { who: null, photo: null, passed: [] });
  state.said.clear();
  ask();
});

// --------------------------------------------------------------------------------------------- classes

// A class that is one letter or digit has that key; the others take what is free, in order.
function keysOf(classes) {
  const own = new Map(classes.filter(name => /^[0-9a-z]$/i.test(name)).map(name => [name, name.toLowerCase()]));
  const taken = new Set(own.values());
  const free = KEYS.filter(key => !taken.has(key));
  return classes.map(name => [name, own.get(name) ?? free.shift() ?? ""]);
}

function buttons(classes) {
  const pairs = keysOf(classes);
  state.keys = new Map(pairs.filter(([, key]) => key).map(([name, key]) => [key, name]));
  $("classes").replaceChildren(...pairs.map(([name, key]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.label = name;
    if (key) {
      const shown = document.createElement("kbd");
      shown.textContent = key;
      button.append(shown);
      button.setAttribute("aria-keyshortcuts", key);
    }
    button.append(name);
    button.addEventListener("click", event => {
      if (event.detail) button.blur(); // of a pointer: else the space bar would press it again
      word(name);
    });
    return button;
  }));
  $("find-field").hidden = classes.length < MANY;
}

$("find").addEventListener("input", () => {
  const wanted = $("find").value.trim().toLowerCase();
  for (const button of $("classes").children) button.hidden = !button.dataset.label.toLowerCase().includes(wanted);
});
$("find").addEventListener("keydown", event => {
  const first = [...$("classes").children].find(button => !button.hidden);
  if (event.key === "Enter" && first) word(first.dataset.label);
  if (event.key === "Enter" || event.key === "Escape") {
    $("find").value = "";
    $("find").dispatchEvent(new Event("input"));
    $("find").blur();
  }
});

// ----------------------------------------------------------------------------------------------- photo

async function show(photo) {
  const before = $("photo").src;
  state.photo = photo;
  $("work").hidden = !photo;
  $("done").hidden = Boolean(photo);
  $("reveal").hidden = false;
  $("answer").textContent = "";
  if (photo) {
    $("about").textContent = `Sender ${photo.sender} · ${photo.day}`;
    for (const button of $("classes").children) {
      button.classList.toggle("said", state.said.get(photo.image_id) === button.dataset.label);
    }
    $("photo").src = await picture(state.who, photo.image_id);
    await $("photo").decode();
    $("photo").classList.toggle("tiny", Math.max($("photo").naturalWidth, $("photo").naturalHeight) < 100);
  } else {
    $("photo").removeAttribute("src");
  }
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
}

// One thing at a time: a key that is pressed while the last one is under way is not taken for the next photo.
async function doing(work) {
  if (state.busy || !state.who) return;
  state.busy = true;
  document.body.classList.add("busy");
  tell("");
  try {
    await work();
  } catch (problem) {
    if (problem.status === 401 || problem.status === 403) {
      ask(problem.message);
    } else {
      tell(problem.message);
      if (problem.detail === "lost_claim") await show((await take(state.who, state.passed)).photo).catch(again => tell(again.message));
    }
  } finally {
    state.busy = false;
    document.body.classList.remove("busy");
  }
}

async function look() {
  const open = showProgress(await progress(state.who));
  $("done-why").textContent = open
    ? `${open} photos are in other people's hands, or wait for somebody else's opinion.`
    : "Each photo of the queue has its label.";
}

const next = () => doing(async () => {
  let found = await take(state.who, state.passed);
  if (!found.photo && state.passed.length) {
    state.passed = []; // those that were put off come again
    found = await take(state.who, []);
  }
  await show(found.photo);
  if (!found.photo) await look();
});

const later = () => {
  if (state.photo && !state.busy) {
    state.passed = [...state.passed, state.photo.image_id].slice(-100);
    last("Put off: it comes again.");
    next();
  }
};

const word = label => state.photo && doing(async () => {
  const { image_id: imageId } = state.photo;
  const found = await say(state.who, imageId, label, state.passed);
  state.said.set(imageId, label);
  last(label === null ? "Cannot tell." : `${label}${found.state === "labelled" ? "" : ": somebody else is asked too"}.`);
  if (!found.photo && state.passed.length) {
    state.passed = [];
    found.photo = (await take(state.who, [])).photo;
  }
  await Promise.all([show(found.photo), look()]);
});

const back = () => doing(async () => {
  const found = await undo(state.who);
  const mine = found.photo?.image_id === found.undone;
  last(!found.undone ? "There is nothing of yours to take back."
    : mine ? "Taken back. What does the photo show?" : "Taken back; somebody else has the photo now.");
  await Promise.all([show(found.photo), look()]);
});

const reveal = () => state.photo && doing(async () => {
  const said = await answer(state.who, state.photo.image_id);
  $("answer").textContent = `Version ${said.version}: ${said.label}, ${Math.round(100 * said.confidence)} %`;
  $("reveal").hidden = true;
});

function last(text) {
  $("last").textContent = text;
}

function tell(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

$("skip").addEventListener("click", () => word(null));
$("next").addEventListener("click", later);
$("undo").addEventListener("click", back);
$("undo-done").addEventListener("click", back);
$("look").addEventListener("click", next);
$("reveal").addEventListener("click", reveal);

const ACTS = { " ": () => word(null), ArrowRight: later, Backspace: back, "?": reveal };

document.addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !state.who) return;
  if (event.target.closest("input, textarea, select, summary")) return;
  // A button that has the focus keeps its own key.
  if (event.key === " " && event.target.closest("button, a")) return;
  if (event.key === "/" && !$("find-field").hidden) {
    event.preventDefault();
    $("find").focus();
    return;
  }
  const label = state.keys.get(event.key.toLowerCase());
  const act = ACTS[event.key] ?? (label === undefined ? null : () => word(label));
  if (act) {
    event.preventDefault();
    document.activeElement.blur();
    act();
  }
});

introduce();
