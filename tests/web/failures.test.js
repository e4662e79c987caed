// `api.js` when something goes wrong: errors, arguments, storage, aborted calls.

import assert from "node:assert/strict";
import { describe, mock, test } from "node:test";

import { createClient } from "../../src/web/api.js";
import { LOGIN_LIMIT, hold, later, loggedIn, must, proxy, storage } from "./client.js";
import { PASSWORD, first, freshEmail } from "./server.js";

const nextTurn = () => new Promise(setImmediate);

describe("failures", () => {
  test("a 422 names the field and the rule", async () => {
    const { error } = await createClient({ baseUrl: proxy.url }).register({ email: "no e-mail", password: PASSWORD });
    assert.deepEqual(Object.keys(error), ["status", "title", "detail", "errors", "retryAfter"]);
    assert.equal(error.status, 422);
    assert.deepEqual(error.errors.map((broken) => broken.field), ["email"]);
    assert.equal(error.retryAfter, null);
  });

  test("without a connection calls resolve to status 0", async () => {
    const client = createClient({ baseUrl: "http://127.0.0.1:1" });
    const calls = [client.me(), client.login({ email: "a@b.c", password: "x" }), client.tasks.list(), client.tasks.remove("x")];
    for (const { data, error } of await Promise.all(calls)) {
      assert.equal(data, null);
      assert.equal(error.status, 0);
      assert.ok(error.detail.length > 0);
    }
  });

  test("a proxy's HTML error page is an error like any other", async () => {
    proxy.rules.push(() => ({ status: 502, headers: { "Content-Type": "text/html" }, body: "<h1>Bad gateway</h1>" }));
    const { error } = await createClient({ baseUrl: proxy.url }).me();
    assert.deepEqual([error.status, error.title], [502, "Bad Gateway"]);
  });

  test("a 200 without JSON is an error", async () => {
    proxy.rules.push(() => ({ status: 200, body: "<h1>Welcome to the hotel</h1>" }));
    assert.equal((await createClient({ baseUrl: proxy.url }).me()).error.status, 0);
  });

  test("a 503 is repeated after Retry-After if that is safe", async () => {
    const { client } = await loggedIn();
    proxy.rules.push(first(1, "GET", "/auth/me", { status: 503, headers: { "Retry-After": "1" }, body: "{}" }));
    const began = performance.now();
    await must(client.me());
    assert.ok(performance.now() - began >= 990);
    assert.equal(proxy.count("GET", "/auth/me"), 2);
  });

  test("a 503 is not repeated for what must not happen twice", async () => {
    const { client } = await loggedIn();
    const made = await must(client.tasks.create({ title: "once" }));
    const busy = { status: 503, headers: { "Retry-After": "1" }, body: "{}" };
    proxy.rules.push(() => busy);
    proxy.seen.length = 0;
    const calls = [
      client.tasks.create({ title: "twice" }),
      client.tasks.complete(made.id),
      client.tasks.remove(made.id),
      client.register({ email: freshEmail(), password: PASSWORD }),
      client.changePassword({ currentPassword: PASSWORD, newPassword: PASSWORD }),
    ];
    for (const { error } of await Promise.all(calls)) assert.deepEqual([error.status, error.retryAfter], [503, 1]);
    assert.equal(proxy.seen.length, calls.length);
  });

  test("a long Retry-After is returned, and repeating ends", async () => {
    const { client } = await loggedIn();
    proxy.rules.push(first(1, "GET", "/auth/me", { status: 503, headers: { "Retry-After": "60" }, body: "{}" }));
    assert.equal((await client.me()).error.retryAfter, 60);
    proxy.rules.push(() => ({ status: 503, headers: { "Retry-After": "0" }, body: "{}" }));
    proxy.seen.length = 0;
    assert.equal((await client.me()).error.status, 503);
    assert.equal(proxy.seen.length, 3);
  });

  test("rate limit: the 429 of a login is not repeated", async () => {
    const { client, credentials } = await loggedIn();
    for (let n = 0; n < LOGIN_LIMIT; n += 1) await client.login({ ...credentials, password: "wrong" });
    const { error } = await client.login(credentials);
    assert.equal(error.status, 429);
    assert.ok(error.retryAfter > 0);
    assert.equal(proxy.count("POST", "/auth/login"), LOGIN_LIMIT + 1);
  });

  test("a Retry-After that is no number of seconds counts as none", async () => {
    const { client } = await loggedIn();
    proxy.rules.push(() => ({ status: 503, headers: { "Retry-After": "Thu, 26 Nov 2026 07:00:00 GMT" }, body: "{}" }));
    assert.equal((await client.me()).error.retryAfter, null);
    assert.equal(proxy.seen.length, 1);
  });

  test("an answer to login without tokens is an error", async () => {
    const kept = storage();
    const client = createClient({ baseUrl: proxy.url, storage: kept });
    proxy.rules.push(() => ({ status: 200, body: '{"welcome":"to the hotel"}' }));
    assert.equal((await client.login({ email: "a@b.c", password: PASSWORD })).error.status, 0);
    assert.equal(kept.items.size, 0);
  });

  test("no call throws, whatever its arguments", async () => {
    const { client } = await loggedIn();
    const cyclic = {};
    cyclic.self = cyclic;
    const { tasks, ...methods } = client;
    for (const [name, call] of [...Object.entries(methods), ...Object.entries(tasks)]) {
      for (const argument of [undefined, null, 7, "\ud800", 7n, cyclic, Symbol("x"), { title: 7n }]) {
        const answer = call(argument, argument, argument);
        assert.ok(answer instanceof Promise, name);
        if (name !== "hasSession") assert.deepEqual(Object.keys(await answer), ["data", "error"], name);
      }
    }
  });

  test("an onUnauthorized that throws or rejects breaks no call", async () => {
    const complaints = mock.method(console, "error", () => {});
    const handlers = [() => { throw new Error("first"); }, async () => { throw new Error("second"); }];
    for (const onUnauthorized of handlers) {
      const client = createClient({ baseUrl: proxy.url, onUnauthorized });
      assert.equal((await client.me()).error.status, 401);
    }
    await nextTurn();
    complaints.mock.restore();
    assert.deepEqual(complaints.mock.calls.map((call) => call.arguments[0].message), ["first", "second"]);
  });
});

describe("storage", () => {
  const throws = () => {
    throw new DOMException("The quota has been exceeded.", "QuotaExceededError");
  };
  const broken = {
    "that is absent": null,
    "that is blocked": throws,
    "that throws": { getItem: throws, setItem: throws, removeItem: throws },
    "that rejects": { getItem: async () => throws(), setItem: async () => throws(), removeItem: async () => throws() },
    "that is full": { ...storage(), setItem: throws },
    "that is no storage": {},
  };
  for (const [what, given] of Object.entries(broken)) {
    test(`a storage ${what} is replaced by memory`, async () => {
      const { client } = await loggedIn({ storage: given });
      assert.equal(await client.hasSession(), true);
      later(31);
      await must(client.me());
      assert.equal(proxy.count("POST", "/auth/refresh"), 1);
      await must(client.logout());
      assert.equal(await client.hasSession(), false);
      assert.equal((await client.me()).error.status, 401);
    });
  }

  test("a function that returns the storage is as good as the storage", async () => {
    const kept = storage();
    await loggedIn({ storage: () => kept });
    assert.equal(kept.items.size, 1);
  });

  test("a storage that fills up keeps no old refresh token", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    kept.setItem = throws;
    later(31);
    await must(client.me());
    assert.equal(kept.items.size, 0);
    later(31);
    await must(client.me());
  });

  test("after logout the session is over even if storage keeps it", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    kept.removeItem = throws;
    await must(client.logout());
    assert.equal(await client.hasSession(), false);
  });
});

describe("hasSession", () => {
  test("is true from login to logout, and sends no request", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    assert.equal(await client.hasSession(), true);
    assert.equal(await createClient({ baseUrl: proxy.url, storage: kept }).hasSession(), true);
    assert.equal(proxy.seen.length, 0);
    await must(client.logout());
    assert.equal(await client.hasSession(), false);
    assert.equal(await createClient({ baseUrl: proxy.url }).hasSession(), false);
  });
});

describe("AbortSignal", () => {
  const isAborted = ({ data, error }) => assert.deepEqual([data, error.status, error.title], [null, 0, "Aborted"]);

  test("a signal that was aborted before sends no request", async () => {
    const { client } = await loggedIn();
    const options = { signal: AbortSignal.abort() };
    isAborted(await client.me(options));
    isAborted(await client.register({ email: freshEmail(), password: PASSWORD }, options));
    isAborted(await client.tasks.list({}, options));
    isAborted(await client.tasks.create({ title: "x" }, options));
    isAborted(await client.tasks.complete("x", true, options));
    assert.equal(proxy.seen.length, 0);
  });

  test("a call is aborted while its answer is awaited; others are not", async () => {
    const { client } = await loggedIn();
    const { arrived, release } = hold("GET", "/auth/me");
    const controller = new AbortController();
    const aborted = client.me({ signal: controller.signal });
    const other = client.me();
    await arrived;
    controller.abort();
    isAborted(await aborted);
    release();
    await must(other);
  });

  test("aborting a call does not abort the refresh it waits for", async () => {
    const { client } = await loggedIn();
    const { arrived, release } = hold("POST", "/auth/refresh");
    later(31);
    const controller = new AbortController();
    const aborted = client.tasks.create({ title: "x" }, { signal: controller.signal });
    const other = client.me();
    await arrived;
    controller.abort();
    isAborted(await aborted);
    release();
    await must(other);
    assert.deepEqual(proxy.seen.map((request) => request.path), ["/auth/refresh", "/auth/me"]);
  });

  test("a call is aborted while it waits to be repeated", async () => {
    const { client } = await loggedIn();
    const controller = new AbortController();
    proxy.rules.push(() => (setTimeout(() => controller.abort(), 50), { status: 503, headers: { "Retry-After": "9" } }));
    const began = performance.now();
    isAborted(await client.me({ signal: controller.signal }));
    assert.ok(performance.now() - began < 8_000);
    assert.equal(proxy.seen.length, 1);
  });

  test("an iteration is aborted between two pages", async () => {
    const { client } = await loggedIn();
    for (const title of ["1", "2"]) await must(client.tasks.create({ title }));
    const controller = new AbortController();
    const seen = [];
    for await (const { data, error } of client.tasks.list({ limit: 1 }, { signal: controller.signal })) {
      seen.push(error?.title ?? data.title);
      controller.abort();
    }
    assert.deepEqual(seen, ["1", "Aborted"]);
  });

  test("an aborted logout forgets the tokens all the same", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    isAborted(await client.logout({ signal: AbortSignal.abort() }));
    assert.equal(kept.items.size, 0);
  });
});
