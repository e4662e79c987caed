// What the tests of `api.js` share: importing it starts the shipped program once for the file, and before each test a
// proxy in front of it. The clock of the client can be moved on without the server's.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, mock } from "node:test";

import { createClient } from "../../src/web/api.js";
import { PASSWORD, freshEmail, startProxy, startServer } from "./server.js";

/** Failed logins until the server answers 429. */
export const LOGIN_LIMIT = 3;
export let server, proxy;
let ahead = 0;
const realNow = Date.now;
mock.method(Date, "now", () => realNow() + ahead);
before(async () => {
  server = await startServer({ ACCESS_TOKEN_SECONDS: "60", LOGIN_FAILURE_LIMIT: String(LOGIN_LIMIT) });
});
after(async () => assert.equal(await server.stop(), 0));
beforeEach(async () => (proxy = await startProxy(server.url)));
afterEach(() => {
  ahead = 0;
  proxy.stop();
});

/** Web Storage's shape; `token` is the refresh token in it. */
export const storage = (items = new Map()) => ({
  items,
  getItem: (name) => items.get(name) ?? null,
  setItem: (name, value) => items.set(name, value),
  removeItem: (name) => items.delete(name),
  get token() {
    return [...items.values()][0];
  },
});

/** The data of an answer that must not be an error. */
export async function must(pending) {
  const { data, error } = await pending;
  assert.equal(error, null);
  return data;
}

/** A client behind the proxy, logged in. */
export async function loggedIn(options = {}) {
  const client = createClient({ baseUrl: proxy.url, ...options });
  const credentials = { email: freshEmail(), password: PASSWORD };
  await must(client.register(credentials));
  const tokens = await must(client.login(credentials));
  proxy.seen.length = 0;
  return { client, credentials, tokens };
}

/** Moves the client's clock on, not the server's. */
export const later = (seconds) => void (ahead += seconds * 1000);

/** A request past proxy and client. */
export const raw = (path, body, token) =>
  fetch(server.url + path, {
    method: body ? "POST" : "GET",
    headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
    body: body && JSON.stringify(body),
  });

/** Access tokens of one session and one second are equal. */
export async function nextSecond() {
  const began = Math.floor(realNow() / 1000);
  while (Math.floor(realNow() / 1000) === began) await new Promise((resolve) => setTimeout(resolve, 20));
}

/** A rule: in place of this token the server gets one that it refuses. */
export const poison = (token) => (request) => {
  if (request.headers.authorization === `Bearer ${token}`) request.headers.authorization = "Bearer no.good.token";
};

/** Holds back the answers to this request until `release` is called; `arrived` resolves with the first request. */
export function hold(method, path) {
  let release;
  const answers = [];
  const held = new Promise((resolve) => (release = resolve));
  const answer = (got) => (answers.push(got), held);
  const arrived = new Promise((resolve) =>
    proxy.rules.push((seen) => (seen.method === method && seen.path === path ? (resolve(), { answer }) : undefined)));
  return { arrived, release, answers };
}
