// Who looks: the key of this tab, asked for where the server wants one, and what it opens.

import { showPages } from "./nav.js";
import { about, authorized, fetched } from "./server.js";

const KEY = "classy-key"; // the page at / keeps it under the same name
const $ = id => document.getElementById(id);

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function say(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// Asks for `path` and gives what came to `show`; asks again after another key.
export async function open(path, show) {
  let keyNeeded = true;
  try {
    const server = await about();
    showPages(server);
    keyNeeded = server.key_needed;
    $("server").textContent = [server.name, server.version].filter(Boolean).join(" ");
  } catch (problem) {
    say(problem.message);
    return;
  }
  const load = async () => {
    if (keyNeeded && !key()) {
      ask("");
      return;
    }
    $("board").setAttribute("aria-busy", "true");
    try {
      const found = await fetched(path, { headers: authorized(key()) });
      $("key-form").hidden = true;
      say("");
      show(found);
      $("board").hidden = false;
    } catch (problem) {
      if (problem.status === 401 || problem.status === 403) ask(problem.message);
      else say(problem.message ?? String(problem));
    }
    $("board").setAttribute("aria-busy", "false");
  };
  $("key-form").addEventListener("submit", event => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key").value.trim());
    load();
  });
  await load();
}

function ask(why) {
  say(why);
  $("board").hidden = true;
  $("key-form").hidden = false;
  $("key").toggleAttribute("aria-invalid", Boolean(why));
  $("key").focus();
}
