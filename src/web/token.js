/**
 * The tokens in view: three coloured parts, the time that is left, the claims. This file alone holds the text of a
 * token: all else keeps a reference to it, so that nothing of a dead token stays. With it the helpers that all files use.
 */

const TOKEN = /eyJ[\w-]+\.[\w-]+\.[\w-]*|lkr_[\w-]+/g;
const REFERENCE = /\uE000(\d+)\uE001/;
const PARTS = ["header", "claims", "signature"];
/** From here on the client refreshes before it sends the next request. */
const LATE_SECONDS = 30;

export const $ = (id) => document.getElementById(id);

/** An element with properties, attributes where there is no such property, and children. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined)); // S62
  return element;
}

/** One of the icons that the page holds as templates. */
export const icon = (name) => $(`icon-${name}`).content.cloneNode(true);

/** Minutes and seconds, for a person. */
export function clock(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
  return minutes > 0 ? `${minutes} min ${String(rest).padStart(2, "0")} s` : `${rest} s`;
}

/** Tells a screen reader. */
export const announce = (words) => ($("announcement").textContent = words);

/** Each token that was seen: its shortened parts, what was altered in each, and the whole while it may be kept. */
const known = [];

function reference(token, original) {
  let number = known.findIndex(({ whole }) => whole === token);
  if (number < 0) {
    const parts = token.startsWith("lkr_") ? [token] : token.split(".");
    const before = original?.split(".") ?? [];
    const marks = parts.map((part, index) => (original && part !== before[index] ? difference(before[index], part) : null));
    number = known.push({ parts: parts.map(shortened), marks, whole: token }) - 1;
  }
  return `\uE000${number}\uE001`;
}

/** The text with a reference in place of each token. `original`: what the token was altered from. */
export const withoutTokens = (text, original) => text.replace(TOKEN, (token) => reference(token, original));

/** The text as nodes, each token in its colours; whole only where the reader asks for it. */
export function withTokens(text) {
  return text.split(REFERENCE).flatMap((piece, index) => (index % 2 === 1 ? view(known[piece]) : piece ? [piece] : []));
}

function view({ parts, marks, whole }) {
  if (parts.length === 1) return [el("span", { className: "refresh" }, isShown() && whole ? whole : parts[0])];
  const texts = isShown() && whole && marks.every((mark) => !mark) ? whole.split(".") : parts;
  return texts.flatMap((text, index) => {
    const content = marks[index] ? [marks[index].before, el("mark", {}, marks[index].text), marks[index].after] : text;
    return [index > 0 ? "." : null, el("span", { className: PARTS[index] }, content)];
  }).filter(Boolean);
}

/** A part that is enough to tell tokens apart and too little to use them. */
function shortened(part, index) {
  if (part.startsWith("lkr_")) return `lkr_…${part.slice(-4)}`;
  return index < 2 ? `${part.slice(0, 16)}…` : part && `…${part.slice(-4)}`;
}

/** Where two texts differ, from the first to the last byte, and a little of what stands around it. */
function difference(old, now) {
  let [from, behind] = [0, 0];
  while (from < now.length && old[from] === now[from]) from += 1;
  while (behind < now.length - from && old.at(-1 - behind) === now.at(-1 - behind)) behind += 1;
  const [before, text, after] = [now.slice(0, from), now.slice(from, now.length - behind), now.slice(now.length - behind)];
  return { before: before && `…${before.slice(-6)}`, text: text || "nothing", after: after && `${after.slice(0, 6)}…` };
}

/** The tokens of the session, as the last login or refresh gave them. */
let held = null;

const isShown = () => $("show-tokens").checked;
export const accessToken = () => held?.access_token ?? null;
export const claimsOf = (token) => token.split(".").slice(0, 2).map(decoded);
/** Seconds until `exp`; 0 without a token. */
export const secondsLeft = () => (held ? held.claims.exp - Date.now() / 1000 : 0);
/** Resolves once a refresh gives another access token: within one second it is the same, byte for byte. */
export const nextSecond = () => new Promise((resolve) => setTimeout(resolve, held.since + 1100 - Date.now()));

function decoded(part) {
  const bytes = Uint8Array.from(atob(part.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

/** A part of a token from what it is to say. */
export function encoded(members) {
  const bytes = new TextEncoder().encode(JSON.stringify(members));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** Takes the pair that came. */
export function hold({ access_token, refresh_token, refresh_expires_in }) {
  const [header, claims] = claimsOf(access_token);
  held = { access_token, header, claims, refresh: withoutTokens(refresh_token), access: withoutTokens(access_token), since: Date.now(), ends: Date.now() + refresh_expires_in * 1000 };
  inspect();
}

/** The session is over: `state` is `revoked`, or `dropped` where the server could not be told. */
export function letGo(state, words) {
  held = null;
  forget();
  $("token").dataset.state = state;
  $("token-life").textContent = state === "revoked" ? "Revoked" : "Dropped";
  $("token-note").textContent = words;
  inspect();
}

/** Drops the text of every token. What was shown stays, shortened. */
export const forget = () => known.forEach((token) => (token.whole = null));

/** Starts the clock, and calls `redraw` whenever tokens are to be shown or hidden. */
export function startTokens(redraw) {
  $("show-tokens").addEventListener("change", () => (redraw(), inspect()));
  $("token-strip").addEventListener("click", () => {
    $("token-panel").hidden = !$("token-panel").hidden;
    $("token-strip").ariaExpanded = String(!$("token-panel").hidden);
  });
  setInterval(tick, 1000);
}

function inspect() {
  for (const id of ["token-parts", "token-whole"]) $(id).replaceChildren(...withTokens(held?.access ?? ""));
  for (const id of ["token-refresh", "refresh-whole"]) $(id).replaceChildren(...withTokens(held?.refresh ?? ""));
  for (const cell of document.querySelectorAll("[data-claim]")) {
    const value = held?.header[cell.dataset.claim] ?? held?.claims[cell.dataset.claim] ?? "–";
    const isTime = held && ["iat", "exp"].includes(cell.dataset.claim);
    cell.replaceChildren(String(value), ...(isTime ? [el("small", {}, new Date(value * 1000).toLocaleTimeString())] : []));
  }
  const ends = held && new Date(held.ends).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  $("session-ends").textContent = ends ? `Unless it is refreshed before, the session ends on ${ends}.` : "";
  tick();
}

/** Once a second: what is left of the access token. */
function tick() {
  if (!held) return;
  const left = secondsLeft();
  $("token").dataset.state = left <= 0 ? "expired" : left <= LATE_SECONDS ? "late" : "alive";
  $("token-strip").style.setProperty("--left", Math.max(0, left / (held.claims.exp - held.claims.iat)));
  $("token-life").textContent = left > 0 ? clock(left) : "Expired";
  $("token-note").textContent = left > LATE_SECONDS ? "" : "The next request refreshes it first.";
}
