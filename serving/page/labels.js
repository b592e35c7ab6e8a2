// What the page at /label asks the server. `who` is {key, name}: one of them says who labels.

import { asked, authorized, fetched } from "./server.js";

const post = (path, who, body = {}) => fetched(`labels/${path}`, {
  method: "POST",
  headers: { ...authorized(who.key), "Content-Type": "application/json" },
  body: JSON.stringify(who.name ? { ...body, author: who.name } : body),
});

export const progress = who => fetched(
  `labels?${new URLSearchParams(who.name ? { author: who.name } : {})}`, { headers: authorized(who.key) },
);
export const take = (who, passed) => post("next", who, { passed });
export const say = (who, imageId, label, passed) => post("say", who, { image_id: imageId, label, passed });
export const undo = who => post("undo", who);

const query = imageId => new URLSearchParams({ image_id: imageId });
export const answer = (who, imageId) => fetched(`labels/answer?${query(imageId)}`, { headers: authorized(who.key) });

// An <img> cannot send a key: the photo is fetched, and shown from memory.
export async function picture(who, imageId) {
  const response = await asked(`labels/photo?${query(imageId)}`, { headers: authorized(who.key) });
  return URL.createObjectURL(await response.blob());
}
