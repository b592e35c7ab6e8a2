// What the page asks the server. Every failure is an Error with a message for people, `status` and `again`.

// Pages lie at different depths; what they ask lies beside /page/.
const BASE = new URL("..", import.meta.url);

export const authorized = key => (key ? { Authorization: `Bearer ${key}` } : {});

export async function asked(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), { cache: "no-store", credentials: "omit", ...options });
  } catch {
    throw Object.assign(new Error("The server cannot be reached. Is it running, and are you online?"), { status: 0, again: true });
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = await response.json();
  } catch { /* a proxy's page: the status says it */ }
  const problem = told.problem ?? {};
  const again = response.status === 429 || response.status >= 500 || response.status === 401;
  const message = problem.message || told.error || `The server answered ${response.status}.`;
  throw Object.assign(new Error(message), { status: response.status, again, detail: problem.detail });
}

export const fetched = async (path, options) => (await asked(path, options)).json();

export const about = () => fetched("page/about");

export const metadata = key => fetched("v2/models/classy", { headers: authorized(key) });

export async function ask(source, { sender, key }) {
  const query = new URLSearchParams();
  if (sender) query.set("sender", sender);
  if (source.url) query.set("url", source.url);
  const start = performance.now();
  const path = `predict?${query}`;
  const found = await fetched(path, {
    method: "POST",
    headers: { ...authorized(key), ...(source.file ? { "Content-Type": source.file.type || "application/octet-stream" } : {}) },
    body: source.file ?? null,
  });
  return read(found, spent(path, start));
}

// From sending the photo to having the answer, as the browser's network part measured it: without its other work.
function spent(path, start) {
  const entry = performance.getEntriesByName(new URL(path, BASE).href).find(one => one.startTime >= start);
  const measured = entry?.requestStart ? entry.responseEnd - entry.requestStart : performance.now() - start;
  if (performance.getEntriesByType("resource").length > 200) performance.clearResourceTimings();
  return measured;
}

function read(found, milliseconds) {
  const shares = Object.entries(found.probabilities ?? { [found.label]: found.confidence });
  shares.sort((one, other) => other[1] - one[1]);
  return {
    label: found.label,
    top: shares.slice(0, 3),
    classes: shares.map(([name]) => name).sort(),
    imageId: found.image_id,
    version: found.model_version,
    generation: found.generation,
    arm: found.arm,
    cached: found.cached,
    defaulted: found.defaulted,
    timing: found.timing_ms ?? {},
    milliseconds,
  };
}

export const tell = (imageId, label, key) => fetched("ground-truth", {
  method: "POST",
  headers: { ...authorized(key), "Content-Type": "application/json" },
  body: JSON.stringify({ image_id: imageId, label }),
});
