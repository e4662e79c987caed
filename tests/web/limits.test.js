// The time limits of `api.js`, on a clock of the test's own and without a server.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { createClient } from "../../src/web/api.js";

/** The server answers every request within this time, and for this time a repeated refresh with the same successor. */
const [SERVER_ANSWERS_WITHIN_MS, SAME_SUCCESSOR_MS] = [10_000, 60_000];
const nextTurn = () => new Promise(setImmediate);

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  mock.method(AbortSignal, "timeout", (milliseconds) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), milliseconds);
    return controller.signal;
  });
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

/** Moves the clock on until the call is over: its answer and the time that it took. */
async function timed(pending) {
  const began = Date.now();
  let outcome;
  pending.then((answer) => (outcome = answer));
  for (let steps = 0; !outcome && steps < 2000; steps += 1) {
    await nextTurn();
    if (!outcome) mock.timers.tick(100);
  }
  return { outcome, took: Date.now() - began };
}

/** Each answer takes this long, and is a 503 that asks for a pause. */
function slowServer(milliseconds, pauseSeconds = 10) {
  const sent = [];
  mock.method(globalThis, "fetch", (url, { signal }) => {
    sent.push(Date.now());
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
      if (!Number.isFinite(milliseconds)) return;
      const busy = () => new Response("{}", { status: 503, headers: { "Retry-After": String(pauseSeconds) } });
      setTimeout(() => resolve(busy()), milliseconds);
    });
  });
  return sent;
}
const resumed = () =>
  createClient({ baseUrl: "http://latchkey.test", storage: { getItem: () => "lkr_x", setItem() {}, removeItem() {} } });

test("a slow answer within the server's own limit is awaited", async () => {
  slowServer(SERVER_ANSWERS_WITHIN_MS);
  const { outcome } = await timed(resumed().me());
  assert.equal(outcome.error.status, 503);
});

test("refresh: all repeats end within the grace period", async () => {
  for (const [milliseconds, pauseSeconds] of [[Infinity, 0], ...[1, 10, 11, 15, 30, 60].map((pause) => [11_900, pause])]) {
    const sent = slowServer(milliseconds, pauseSeconds);
    const { took } = await timed(resumed().me());
    const last = sent.at(-1) - sent[0] + SERVER_ANSWERS_WITHIN_MS;
    assert.ok(Math.max(took, last) < SAME_SUCCESSOR_MS, `${took} ms with pauses of ${pauseSeconds} s`);
    assert.equal(sent.length, pauseSeconds > 10 ? 1 : 3);
  }
});

test("a getToken that never answers is given up", async () => {
  const client = createClient({ baseUrl: "http://latchkey.test", getToken: () => new Promise(() => {}) });
  const { outcome, took } = await timed(client.me());
  assert.deepEqual([outcome.error.status, outcome.error.title], [0, "No token"]);
  assert.ok(took < 15_000);
});
