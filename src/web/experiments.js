/**
 * The experiments: real requests that show when a bearer token is accepted, and when it is refused. Their names and
 * what they mean stand in the page. Each carries its name into the timeline, and the bytes that it altered are marked.
 */

import { during, send } from "./flow.js";
import { $, accessToken, announce, claimsOf, encoded, nextSecond, secondsLeft } from "./token.js";

const ME = "/auth/me";
const REFRESH = "/auth/refresh";
/** As long as a user's id, so that no other byte of the claims moves. */
const SOMEBODY_ELSE = "00000000-0000-7000-8000-000000000000";
/** 32 bytes in base64url, as many as a signature has; they say "forged without the server's key!". */
const NOT_A_SIGNATURE = "Zm9yZ2VkIHdpdGhvdXQgdGhlIHNlcnZlcidzIGtleSE";

/** A request with another token than the page's own. */
const ask = (extras) => send(ME, { ...extras, original: accessToken() });
const refresh = (refresh_token, extras) => send(REFRESH, { body: { refresh_token }, ...extras });

/** The same token with other claims; `forged` is how bash makes it from its own. */
function withClaims(token, changes) {
  const [header, , signature] = token.split(".");
  const claims = encoded({ ...claimsOf(token)[1], ...changes });
  return { token: `${header}.${claims}.${signature}`, forged: `\${token%%.*}.${claims}.\${token##*.}` };
}

/** What each experiment does. `session` is the page's own. */
const RUNS = {
  none: () => send(ME),

  forged: () => ask({
    token: accessToken().replace(/[^.]*$/, NOT_A_SIGNATURE),
    forged: `\${token%.*}.${NOT_A_SIGNATURE}`,
    note: "the signature, by somebody who does not have the server’s key.",
  }),

  altered: () => ask({ ...withClaims(accessToken(), { sub: SOMEBODY_ELSE }), note: "the claim sub, which now names somebody else." }),

  unsigned() {
    const [header, claims] = [encoded({ ...claimsOf(accessToken())[0], alg: "none" }), accessToken().split(".")[1]];
    const forged = `${header}.$(cut -d. -f2 <<<"$token").`;
    return ask({ token: `${header}.${claims}.`, forged, note: "the header, which now says alg “none”, and the signature, which is gone." });
  },

  other: () => send("/api/somebody-else/tasks", { token: accessToken() }),

  expired: ({ client }) => nextSecond().then(client.me),

  async previous(session) {
    const first = session.refreshToken();
    await session.renew();
    await refresh(first, { successor: session.refreshToken() });
  },

  async replay(session) {
    const first = session.refreshToken();
    await session.renew();
    await session.renew();
    await refresh(first);
    await session.client.me();
  },

  async stolen(session) {
    const who = "The thief";
    const loot = await refresh(session.refreshToken(), { who });
    await send(ME, { who, token: loot.access_token });
    await refresh(loot.refresh_token, { who });
    await session.renew();
    await send(ME, { who, token: loot.access_token });
  },

  async loggedOut(session) {
    const token = accessToken();
    await session.logout();
    await send(ME, { token });
  },
};

/** Instead of waiting: the first token that the page's own client sends. */
const expire = (token) => ({ ...withClaims(token, { exp: Math.floor(Date.now() / 1000) - 3600 }), note: "the claim exp, which now lies an hour back." });

const buttons = () => [...document.querySelectorAll("[data-experiment]")];

/** Connects the list. `session`: `client`, `renew`, `refreshToken`, `logout`. */
export function startExperiments(session) {
  for (const button of buttons()) button.addEventListener("click", () => run(button.dataset.experiment, session));
}

/** Runs one of them, one at a time; those that need a session wait for one. */
export async function run(id, session) {
  const button = buttons().find(({ dataset }) => dataset.experiment === id);
  if (button.ariaDisabled === "true") return announce("Log in first.");
  for (const each of buttons()) each.ariaDisabled = "true";
  button.classList.add("running");
  if (accessToken() && secondsLeft() < 30) await session.client.me();
  const experiment = { id, name: button.querySelector("b").textContent, alter: id === "expired" ? expire : null };
  // Where a request has no answer, the timeline says so.
  await during(experiment, () => RUNS[id](session)).catch(() => null);
  button.classList.replace("running", "done");
  allowExperiments(accessToken() !== null);
}

/** Without a session only the request without a token can be made. */
export function allowExperiments(hasSession) {
  $("experiments").classList.toggle("locked", !hasSession);
  for (const button of buttons()) button.ariaDisabled = String(!hasSession && button.dataset.experiment !== "none");
}
