// What the page asks the server. Every failure is an Error with a message for people, `status` and `again`.

const authorized = key => (key ? { Authorization: `Bearer ${key}` } : {});

async function fetched(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", ...options });
  } catch {
    throw Object.assign(new Error("The server cannot be reached. Is it running, and are you online?"), { status: 0, again: true });
  }
  if (response.ok) return response.json();
  let told = {};
  try {
    told = await response.json();
  } catch { /* a proxy's page: the status says it */ }
  const problem = told.problem ?? {};
  const again = response.status === 429 || response.status >= 500 || response.status === 401;
  const message = problem.message || told.error || `The server answered ${response.status}.`;
  throw Object.assign(new Error(message), { status: response.status, again });
}

export const about = () => fetched("page/about");

export const metadata = key => fetched("v2/models/classy", { headers: authorized(key) });

export async function ask(source, { sender, key }) {
  const query = new URLSearchParams();
  if (sender) query.set("sender", sender);
  if (source.url) query.set("url", source.url);
  const start = performance.now();
  const found = await fetched(`predict?${query}`, {
    method: "POST",
    headers: { ...authorized(key), ...(source.file ? { "Content-Type": source.file.type || "application/octet-stream" } : {}) },
    body: source.file ?? null,
  });
  return read(found, performance.now() - start);
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
