// `api.js` against the real server: what its users rely on, above all when tokens end and answers get lost.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, mock, test } from "node:test";

import { createClient } from "../../src/web/api.js";
import { PASSWORD, first, freshEmail, startProxy, startServer } from "./server.js";

const LIMIT = 3;
let server, proxy;
let ahead = 0;
const realNow = Date.now;
mock.method(Date, "now", () => realNow() + ahead);
before(async () => (server = await startServer({ ACCESS_TOKEN_SECONDS: "60", LOGIN_FAILURE_LIMIT: String(LIMIT) })));
after(async () => assert.equal(await server.stop(), 0));
beforeEach(async () => (proxy = await startProxy(server.url)));
afterEach(() => {
  ahead = 0;
  proxy.stop();
});

const storage = (items = new Map()) => ({
  items,
  getItem: (name) => items.get(name) ?? null,
  setItem: (name, value) => items.set(name, value),
  removeItem: (name) => items.delete(name),
  get token() {
    return [...items.values()][0];
  },
});

async function must(pending) {
  const { data, error } = await pending;
  assert.equal(error, null);
  return data;
}

/** A client behind the proxy, logged in. */
async function loggedIn(options = {}) {
  const client = createClient({ baseUrl: proxy.url, ...options });
  const credentials = { email: freshEmail(), password: PASSWORD };
  await must(client.register(credentials));
  const tokens = await must(client.login(credentials));
  proxy.seen.length = 0;
  return { client, credentials, tokens };
}

/** Lets the client's clock, not the server's, go on. */
const later = (seconds) => void (ahead += seconds * 1000);
const raw = (path, body, token) =>
  fetch(server.url + path, {
    method: body ? "POST" : "GET",
    headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
    body: body && JSON.stringify(body),
  });
/** Tokens of one session and second are equal: after this the next one differs. */
async function nextSecond() {
  const began = Math.floor(realNow() / 1000);
  while (Math.floor(realNow() / 1000) === began) await new Promise((resolve) => setTimeout(resolve, 20));
}
/** The server hears another token in place of this one, and refuses it. */
const poison = (token) => (request) => {
  if (request.headers.authorization === `Bearer ${token}`) request.headers.authorization = "Bearer no.good.token";
};

describe("the flow", () => {
  test("registering, logging in and reading who one is gives what the server tells", async () => {
    const { client, credentials } = await loggedIn();
    const me = await must(client.me());
    assert.equal(me.email, credentials.email);
    assert.deepEqual(Object.keys(me), ["id", "email", "is_active", "created_at"]);
  });

  test("a task is added, read, changed, completed, toggled and removed", async () => {
    const { client } = await loggedIn();
    const made = await must(client.tasks.create({ title: "Buy milk" }));
    assert.deepEqual(await must(client.tasks.get(made.id)), made);
    assert.equal((await must(client.tasks.update(made.id, { title: "Buy tea", description: "green" }))).title, "Buy tea");
    assert.equal((await must(client.tasks.complete(made.id, true))).completed, true);
    assert.equal((await must(client.tasks.complete(made.id, true))).completed, true);
    assert.equal((await must(client.tasks.complete(made.id))).completed, false);
    assert.equal(await must(client.tasks.remove(made.id)), null);
    assert.equal((await client.tasks.get(made.id)).error.status, 404);
  });

  test("a list can be filtered and awaited", async () => {
    const { client } = await loggedIn();
    const [a, b] = [await must(client.tasks.create({ title: "a" })), await must(client.tasks.create({ title: "b" }))];
    await must(client.tasks.complete(b.id, true));
    assert.deepEqual((await must(client.tasks.list({ completed: false }))).map((task) => task.id), [a.id]);
    assert.deepEqual((await must(client.tasks.list({ after: a.id }))).map((task) => task.id), [b.id]);
    assert.equal((await must(client.tasks.list({ limit: 1 }))).length, 1);
  });

  test("an id cannot lead to another path", async () => {
    const { client } = await loggedIn();
    await client.tasks.get("../../../auth/me?x=");
    assert.deepEqual(proxy.seen.map((request) => request.path), ["/api/me/tasks/..%2F..%2F..%2Fauth%2Fme%3Fx%3D"]);
  });

  test("the password is changed and the account deleted", async () => {
    const { client, credentials } = await loggedIn();
    const wrong = await client.changePassword({ currentPassword: "not it", newPassword: `${PASSWORD} new` });
    assert.equal(wrong.error.status, 403);
    await must(client.changePassword({ currentPassword: PASSWORD, newPassword: `${PASSWORD} new` }));
    await must(client.me());
    await must(client.deleteAccount({ password: `${PASSWORD} new` }));
    assert.equal((await client.me()).error.status, 401);
    assert.equal((await client.login(credentials)).error.status, 401);
  });
});

describe("all tasks", () => {
  test("iterating over a list gives every task once, page after page", async () => {
    const { client } = await loggedIn();
    const titles = ["1", "2", "3", "4", "5"];
    for (const title of titles) await must(client.tasks.create({ title }));
    proxy.seen.length = 0;
    const seen = [];
    for await (const { data, error } of client.tasks.list({ limit: 2, completed: false })) seen.push(error ?? data.title);
    assert.deepEqual(seen, titles);
    assert.equal(proxy.count("GET", "/api/me/tasks"), 3);
    assert.ok(proxy.seen.every((request) => request.path.includes("completed=false")));
  });

  test("an error in the middle is the last item", async () => {
    const { client } = await loggedIn();
    for (const title of ["1", "2"]) await must(client.tasks.create({ title }));
    proxy.rules.push((request) => (request.path.includes("after=") ? { status: 500, body: "{}" } : undefined));
    const seen = [];
    for await (const { data, error } of client.tasks.list({ limit: 1 })) seen.push(error?.status ?? data.title);
    assert.deepEqual(seen, ["1", 500]);
  });

  test("a link to another host takes no token there", async () => {
    const { client } = await loggedIn();
    const elsewhere = await startProxy(server.url);
    for (const title of ["1", "2"]) await must(client.tasks.create({ title }));
    const answer = ({ headers }) => {
      if (headers.link) headers.link = headers.link.replace("</", `<${elsewhere.url}/`);
    };
    proxy.rules.push(() => ({ answer }));
    const seen = [];
    for await (const { data } of client.tasks.list({ limit: 1 })) seen.push(data.title);
    elsewhere.stop();
    assert.deepEqual(seen, ["1", "2"]);
    assert.equal(elsewhere.seen.length, 0);
  });

  test("a redirection is not followed", async () => {
    const { client } = await loggedIn();
    const elsewhere = await startProxy(server.url);
    proxy.rules.push(() => ({ status: 307, headers: { Location: `${elsewhere.url}/auth/me` } }));
    const { error } = await client.me();
    elsewhere.stop();
    assert.equal(error.status, 0);
    assert.equal(elsewhere.seen.length, 0);
  });
});

describe("refreshing", () => {
  test("a token that lives for more than thirty seconds is used as it is", async () => {
    const { client } = await loggedIn();
    later(25);
    await must(client.me());
    assert.equal(proxy.count("POST", "/auth/refresh"), 0);
  });

  test("thirty seconds before its end the token is replaced before the call", async () => {
    const { client, tokens } = await loggedIn();
    await nextSecond();
    later(31);
    await must(client.me());
    assert.deepEqual(proxy.seen.map((request) => request.path), ["/auth/refresh", "/auth/me"]);
    assert.notEqual(proxy.seen[1].headers.authorization, `Bearer ${tokens.access_token}`);
  });

  test("twenty calls at once cause one refresh shortly before the end", async () => {
    const { client } = await loggedIn();
    later(31);
    await Promise.all(Array.from({ length: 20 }, () => must(client.me())));
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.equal(proxy.count("GET", "/auth/me"), 20);
  });

  test("after a 401 the token is refreshed once and the call repeated once, for twenty calls at once too", async () => {
    const { client, tokens } = await loggedIn();
    await nextSecond();
    proxy.rules.push(poison(tokens.access_token));
    await Promise.all(Array.from({ length: 20 }, () => must(client.tasks.create({ title: "x" }))));
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.equal(proxy.count("POST", "/api/me/tasks"), 40);
    assert.equal((await must(client.tasks.list())).length, 20);
  });

  test("a 401 after the refresh too is told, not tried for ever", async () => {
    const told = [];
    const { client } = await loggedIn({ onUnauthorized: (error) => told.push(error.status) });
    proxy.rules.push((request) => (request.path === "/auth/me" ? { status: 401, body: "{}" } : undefined));
    assert.equal((await client.me()).error.status, 401);
    assert.equal(proxy.count("GET", "/auth/me"), 2);
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.deepEqual(told, [401]);
  });

  test("a refresh whose answer is lost is asked for again and gives the same successor", async () => {
    const { client } = await loggedIn();
    proxy.rules.push(first(1, "POST", "/auth/refresh", "lose"));
    later(31);
    await must(client.me());
    assert.equal(proxy.count("POST", "/auth/refresh"), 2);
    assert.equal(new Set(proxy.seen.filter((r) => r.path === "/auth/refresh").map((r) => r.body)).size, 1);
    later(31);
    await must(client.me());
  });

  test("while the refresh cannot be answered, a token that still lives serves", async () => {
    const { client } = await loggedIn();
    proxy.rules.push((r) => (r.path === "/auth/refresh" ? { status: 503, headers: { "Retry-After": "60" } } : undefined));
    later(31);
    await must(client.me());
  });

  test("a refresh token that was used before ends the session, and the page is told once", async () => {
    const told = [];
    const kept = storage();
    const { client } = await loggedIn({ storage: kept, onUnauthorized: (error) => told.push(error.title) });
    const stolen = kept.token;
    const next = await (await raw("/auth/refresh", { refresh_token: stolen })).json();
    await raw("/auth/refresh", { refresh_token: next.refresh_token });
    later(31);
    const answers = await Promise.all(Array.from({ length: 20 }, () => client.me()));
    assert.ok(answers.every(({ error }) => error.status === 401));
    assert.deepEqual(told, ["Invalid refresh token"]);
    assert.equal(kept.items.size, 0);
    assert.equal((await raw("/auth/me", null, next.access_token)).status, 401);
  });

  test("two tabs with one storage live on after either has refreshed", async () => {
    const shared = storage();
    const { client } = await loggedIn({ storage: shared });
    const other = createClient({ baseUrl: proxy.url, storage: shared });
    await must(other.me());
    for (const seconds of [31, 31, 31]) {
      later(seconds);
      await Promise.all([must(client.me()), must(other.me())]);
    }
  });

  test("a client that was closed goes on with the refresh token from its storage", async () => {
    const kept = storage();
    const { credentials } = await loggedIn({ storage: kept });
    const reopened = createClient({ baseUrl: proxy.url, storage: kept });
    assert.equal((await must(reopened.me())).email, credentials.email);
    assert.deepEqual([...kept.items.keys()], ["latchkey.refresh_token"]);
  });

  test("nothing is kept outside of the client where no storage is given", async () => {
    await loggedIn();
    const other = createClient({ baseUrl: proxy.url });
    assert.equal((await other.me()).error.status, 401);
    assert.equal(proxy.seen[0].headers.authorization, undefined);
  });
});

describe("logging out", () => {
  test("logging out ends the session on the server and forgets the tokens", async () => {
    const kept = storage();
    const { client, tokens } = await loggedIn({ storage: kept });
    await must(client.logout());
    assert.equal(kept.items.size, 0);
    assert.equal((await raw("/auth/me", null, tokens.access_token)).status, 401);
    assert.equal((await client.me()).error.status, 401);
  });

  test("logging out everywhere ends another client's session, which learns it with its next call", async () => {
    const told = [];
    const { client, credentials } = await loggedIn();
    const other = createClient({ baseUrl: proxy.url, onUnauthorized: () => told.push("other") });
    await must(other.login(credentials));
    await must(client.logoutAll());
    assert.equal((await other.me()).error.status, 401);
    assert.deepEqual(told, ["other"]);
  });

  test("logging out of a session that is over already is no error", async () => {
    const { client, tokens } = await loggedIn();
    await fetch(`${server.url}/auth/logout`, { method: "POST", headers: { Authorization: `Bearer ${tokens.access_token}` } });
    assert.deepEqual(await client.logout(), { data: null, error: null });
  });

  test("logging out without a connection forgets the tokens and says that the server does not know", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    proxy.rules.push(() => "drop");
    assert.equal((await client.logout()).error.status, 0);
    assert.equal(kept.items.size, 0);
  });

  test("a refresh that was under way does not undo a logout", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    let release;
    const held = new Promise((resolve) => (release = resolve));
    const slow = { ...kept, setItem: kept.setItem, getItem: async (name) => (await held, kept.getItem(name)) };
    const other = createClient({ baseUrl: proxy.url, storage: slow });
    const call = other.me();
    const leaving = other.logout();
    release();
    await Promise.all([call, leaving]);
    assert.equal(kept.items.size, 0);
    assert.equal((await client.me()).error.status, 401);
  });
});

describe("failures", () => {
  test("a broken rule comes with its field and its sentence", async () => {
    const { error } = await createClient({ baseUrl: proxy.url }).register({ email: "no e-mail", password: PASSWORD });
    assert.deepEqual(Object.keys(error), ["status", "title", "detail", "errors", "retryAfter"]);
    assert.equal(error.status, 422);
    assert.deepEqual(error.errors.map((broken) => broken.field), ["email"]);
    assert.equal(error.retryAfter, null);
  });

  test("without a connection every call resolves to status 0", async () => {
    const client = createClient({ baseUrl: "http://127.0.0.1:1" });
    const calls = [client.me(), client.login({ email: "a@b.c", password: "x" }), client.tasks.list(), client.tasks.remove("x")];
    for (const { data, error } of await Promise.all(calls)) {
      assert.equal(data, null);
      assert.equal(error.status, 0);
      assert.ok(error.detail.length > 0);
    }
  });

  test("a proxy's own page is an error like any other", async () => {
    proxy.rules.push(() => ({ status: 502, headers: { "Content-Type": "text/html" }, body: "<h1>Bad gateway</h1>" }));
    const { error } = await createClient({ baseUrl: proxy.url }).me();
    assert.deepEqual([error.status, error.title], [502, "Bad Gateway"]);
  });

  test("what is no JSON behind a 200 is an error", async () => {
    proxy.rules.push(() => ({ status: 200, body: "<h1>Welcome to the hotel</h1>" }));
    assert.equal((await createClient({ baseUrl: proxy.url }).me()).error.status, 0);
  });

  test("a 503 is repeated after Retry-After where that is safe", async () => {
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

  test("a long Retry-After is told, not waited for, and repeating ends", async () => {
    const { client } = await loggedIn();
    proxy.rules.push(first(1, "GET", "/auth/me", { status: 503, headers: { "Retry-After": "60" }, body: "{}" }));
    assert.equal((await client.me()).error.retryAfter, 60);
    proxy.rules.push(() => ({ status: 503, headers: { "Retry-After": "0" }, body: "{}" }));
    proxy.seen.length = 0;
    assert.equal((await client.me()).error.status, 503);
    assert.equal(proxy.seen.length, 3);
  });

  test("too many wrong passwords are a 429 that says how long to wait, and is not repeated", async () => {
    const { client, credentials } = await loggedIn();
    for (let n = 0; n < LIMIT; n += 1) await client.login({ ...credentials, password: "wrong" });
    const { error } = await client.login(credentials);
    assert.equal(error.status, 429);
    assert.ok(error.retryAfter > 0);
    assert.equal(proxy.count("POST", "/auth/login"), LIMIT + 1);
  });
});

describe("tokens of somebody else", () => {
  /** Better Auth's `authClient`, as far as `token()` goes: a network call each time, never a rejection. */
  async function authClient() {
    const { credentials } = await loggedIn();
    const stub = { calls: 0, fails: null };
    stub.token = async () => {
      stub.calls += 1;
      if (stub.fails) return { data: null, error: stub.fails };
      const tokens = await (await raw("/auth/login", credentials)).json();
      stub.last = tokens.access_token;
      return { data: { token: tokens.access_token }, error: null };
    };
    return stub;
  }

  test("authClient.token is asked once for twenty calls at once, and again shortly before the token's end", async () => {
    const auth = await authClient();
    const client = createClient({ baseUrl: proxy.url, getToken: () => auth.token() });
    await Promise.all(Array.from({ length: 20 }, () => must(client.me())));
    assert.equal(auth.calls, 1);
    later(31);
    await must(client.me());
    assert.equal(auth.calls, 2);
    assert.equal(proxy.count("POST", "/auth/refresh"), 0);
  });

  test("after a 401 a new token is asked for once", async () => {
    const auth = await authClient();
    const client = createClient({ baseUrl: proxy.url, getToken: auth.token });
    await must(client.me());
    proxy.rules.push(poison(auth.last));
    await nextSecond();
    await must(client.me());
    assert.equal(auth.calls, 2);
  });

  test("an error of the issuer is an error here, and a plain string or nothing will do too", async () => {
    const auth = await authClient();
    auth.fails = { message: "Session expired", status: 401, statusText: "UNAUTHORIZED" };
    const told = [];
    const client = createClient({ baseUrl: proxy.url, getToken: auth.token, onUnauthorized: (e) => told.push(e.detail) });
    const { error } = await client.me();
    assert.deepEqual([error.status, error.title, error.detail], [401, "UNAUTHORIZED", "Session expired"]);
    assert.deepEqual(told, ["Session expired"]);
    auth.fails = null;
    await auth.token();
    await must(createClient({ baseUrl: proxy.url, getToken: () => auth.last }).me());
    assert.equal((await createClient({ baseUrl: proxy.url, getToken: async () => null }).me()).error.status, 401);
  });

  test("a getToken that throws is an error like any other", async () => {
    const client = createClient({ baseUrl: proxy.url, getToken: () => Promise.reject(new Error("offline")) });
    assert.equal((await client.me()).error.status, 0);
  });
});
