// `api.js` against the real server: accounts, tasks, refreshing, logging out.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";

import { createClient } from "../../src/web/api.js";
import { hold, later, loggedIn, must, nextSecond, poison, proxy, raw, server, storage } from "./client.js";
import { PASSWORD, first, startProxy } from "./server.js";

describe("the flow", () => {
  test("register, log in, me", async () => {
    const { client, credentials } = await loggedIn();
    const me = await must(client.me());
    assert.equal(me.email, credentials.email);
    assert.deepEqual(Object.keys(me), ["id", "email", "is_active", "created_at"]);
  });

  test("a task is created, read, updated, completed and removed", async () => {
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

  test("a list of tasks can be filtered and awaited", async () => {
    const { client } = await loggedIn();
    const [a, b] = [await must(client.tasks.create({ title: "a" })), await must(client.tasks.create({ title: "b" }))];
    await must(client.tasks.complete(b.id, true));
    assert.deepEqual((await must(client.tasks.list({ completed: false }))).map((task) => task.id), [a.id]);
    assert.deepEqual((await must(client.tasks.list({ after: a.id }))).map((task) => task.id), [b.id]);
    assert.equal((await must(client.tasks.list({ limit: 1 }))).length, 1);
  });

  test("path traversal: an id cannot lead to another path", async () => {
    const { client } = await loggedIn();
    await client.tasks.get("../../../auth/me?x=");
    assert.deepEqual(proxy.seen.map((request) => request.path), ["/api/me/tasks/..%2F..%2F..%2Fauth%2Fme%3Fx%3D"]);
  });

  test("change the password, delete the account", async () => {
    const kept = storage();
    const { client, credentials } = await loggedIn({ storage: kept });
    const wrong = await client.changePassword({ currentPassword: "not it", newPassword: `${PASSWORD} new` });
    assert.equal(wrong.error.status, 403);
    await must(client.changePassword({ currentPassword: PASSWORD, newPassword: `${PASSWORD} new` }));
    await must(client.me());
    assert.equal((await client.deleteAccount({ password: PASSWORD })).error.status, 403);
    assert.equal(kept.items.size, 1);
    await must(client.deleteAccount({ password: `${PASSWORD} new` }));
    assert.equal(kept.items.size, 0);
    assert.equal((await client.me()).error.status, 401);
    assert.equal((await client.login(credentials)).error.status, 401);
  });
});

describe("all tasks", () => {
  test("pagination: iterating gives every task once", async () => {
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

  test("pagination: an error is the last item", async () => {
    const { client } = await loggedIn();
    for (const title of ["1", "2"]) await must(client.tasks.create({ title }));
    proxy.rules.push((request) => (request.path.includes("after=") ? { status: 500, body: "{}" } : undefined));
    const seen = [];
    for await (const { data, error } of client.tasks.list({ limit: 1 })) seen.push(error?.status ?? data.title);
    assert.deepEqual(seen, ["1", 500]);
  });

  test("token leak: a Link to another host is not followed", async () => {
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

  test("token leak: a redirect is not followed", async () => {
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
  test("an access token with over 30 s left is used as it is", async () => {
    const { client } = await loggedIn();
    later(25);
    await must(client.me());
    assert.equal(proxy.count("POST", "/auth/refresh"), 0);
  });

  test("an access token with under 30 s left is refreshed first", async () => {
    const { client, tokens } = await loggedIn();
    await nextSecond();
    later(31);
    await must(client.me());
    assert.deepEqual(proxy.seen.map((request) => request.path), ["/auth/refresh", "/auth/me"]);
    assert.notEqual(proxy.seen[1].headers.authorization, `Bearer ${tokens.access_token}`);
  });

  test("single flight: twenty calls at once cause one refresh", async () => {
    const { client } = await loggedIn();
    later(31);
    await Promise.all(Array.from({ length: 20 }, () => must(client.me())));
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.equal(proxy.count("GET", "/auth/me"), 20);
  });

  test("after a 401: one refresh, and each call repeated once", async () => {
    const { client, tokens } = await loggedIn();
    await nextSecond();
    proxy.rules.push(poison(tokens.access_token));
    await Promise.all(Array.from({ length: 20 }, () => must(client.tasks.create({ title: "x" }))));
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.equal(proxy.count("POST", "/api/me/tasks"), 40);
    assert.equal((await must(client.tasks.list())).length, 20);
  });

  test("a second 401 is returned, not retried for ever", async () => {
    const told = [];
    const { client } = await loggedIn({ onUnauthorized: (error) => told.push(error.status) });
    await nextSecond();
    proxy.rules.push((request) => (request.path === "/auth/me" ? { status: 401, body: "{}" } : undefined));
    assert.equal((await client.me()).error.status, 401);
    assert.equal(proxy.count("GET", "/auth/me"), 2);
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.deepEqual(told, [401]);
  });

  test("a refresh whose answer is lost is repeated", async () => {
    const { client } = await loggedIn();
    proxy.rules.push(first(1, "POST", "/auth/refresh", "lose"));
    later(31);
    await must(client.me());
    assert.equal(proxy.count("POST", "/auth/refresh"), 2);
    assert.equal(new Set(proxy.seen.filter((r) => r.path === "/auth/refresh").map((r) => r.body)).size, 1);
    later(31);
    await must(client.me());
  });

  test("while refresh is unavailable a valid access token serves", async () => {
    const { client } = await loggedIn();
    proxy.rules.push((r) => (r.path === "/auth/refresh" ? { status: 503, headers: { "Retry-After": "60" } } : undefined));
    later(31);
    await must(client.me());
  });

  test("refresh token reuse: session over, onUnauthorized once", async () => {
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

  test("two tabs with one storage survive each other's refresh", async () => {
    const shared = storage();
    const { client } = await loggedIn({ storage: shared });
    const other = createClient({ baseUrl: proxy.url, storage: shared });
    await must(other.me());
    for (const seconds of [31, 31, 31]) {
      later(seconds);
      await Promise.all([must(client.me()), must(other.me())]);
    }
  });

  test("a tab whose refresh lost the race uses the other's token", async () => {
    const shared = storage();
    const { client } = await loggedIn({ storage: shared });
    const next = await (await raw("/auth/refresh", { refresh_token: shared.token })).json();
    const loses = first(1, "POST", "/auth/refresh", { status: 401, body: "{}" });
    proxy.rules.push((request) => {
      const fate = loses(request);
      if (fate) shared.setItem("latchkey.refresh_token", next.refresh_token);
      return fate;
    });
    later(31);
    await must(client.me());
    assert.equal(proxy.count("POST", "/auth/refresh"), 2);
  });

  test("a new client resumes from the refresh token in storage", async () => {
    const kept = storage();
    const { credentials } = await loggedIn({ storage: kept });
    const reopened = createClient({ baseUrl: proxy.url, storage: kept });
    assert.equal((await must(reopened.me())).email, credentials.email);
    assert.deepEqual([...kept.items.keys()], ["latchkey.refresh_token"]);
  });

  test("without storage no other client shares the session", async () => {
    await loggedIn();
    const other = createClient({ baseUrl: proxy.url });
    assert.equal((await other.me()).error.status, 401);
    assert.equal(proxy.seen[0].headers.authorization, undefined);
  });
});

test("S63 logout revokes the session and forgets the tokens", async () => {
  const kept = storage();
  const { client, tokens } = await loggedIn({ storage: kept });
  await must(client.logout());
  assert.equal(kept.items.size, 0);
  assert.equal((await raw("/auth/me", null, tokens.access_token)).status, 401);
  assert.equal((await client.me()).error.status, 401);
});

describe("logging out", () => {
  test("logoutAll revokes the session of another client", async () => {
    const told = [];
    const { client, credentials } = await loggedIn();
    const other = createClient({ baseUrl: proxy.url, onUnauthorized: () => told.push("other") });
    await must(other.login(credentials));
    await must(client.logoutAll());
    assert.equal((await other.me()).error.status, 401);
    assert.deepEqual(told, ["other"]);
  });

  test("logout of a session that is over is no error", async () => {
    const { client, tokens } = await loggedIn();
    await fetch(`${server.url}/auth/logout`, { method: "POST", headers: { Authorization: `Bearer ${tokens.access_token}` } });
    assert.deepEqual(await client.logout(), { data: null, error: null });
  });

  test("logout without a connection forgets the tokens and fails", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    proxy.rules.push(() => "drop");
    assert.equal((await client.logout()).error.status, 0);
    assert.equal(kept.items.size, 0);
  });

  test("race: a refresh under way does not undo a login", async () => {
    const kept = storage();
    const { client } = await loggedIn({ storage: kept });
    const { credentials } = await loggedIn();
    let release;
    const held = new Promise((resolve) => (release = resolve));
    const arrived = new Promise((resolve) =>
      proxy.rules.push((r) => (r.path === "/auth/refresh" ? (resolve(), { answer: () => held }) : undefined)));
    later(31);
    const call = client.me();
    await arrived;
    await must(client.login(credentials));
    const token = kept.token;
    release();
    assert.equal((await must(call)).email, credentials.email);
    assert.equal(kept.token, token);
  });

  test("race: a refresh under way does not undo a logout", async () => {
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

  for (const change of ["logout", "login"]) {
    test(`race: a ${change} during a login undoes that login`, async () => {
      const kept = storage();
      const [{ credentials }, other] = [await loggedIn(), await loggedIn()];
      const client = createClient({ baseUrl: proxy.url, storage: kept });
      const { arrived, release, answers } = hold("POST", "/auth/login");
      const overtaken = client.login(credentials);
      await arrived;
      proxy.rules.length = 0;
      const changed = change === "login" ? client.login(other.credentials) : client.logout();
      assert.equal((await changed).error, null);
      release();
      assert.equal((await overtaken).error.title, "Superseded");
      const me = await client.me();
      assert.equal(me.data?.email, change === "login" ? other.credentials.email : undefined);
      const unwanted = JSON.parse(answers[0].body).access_token;
      const status = async () => (await raw("/auth/me", null, unwanted)).status;
      for (let tries = 0; tries < 100 && (await status()) !== 401; tries += 1) await delay(20);
      assert.equal(await status(), 401);
    });
  }

  test("after a new login onUnauthorized is called again", async () => {
    const told = [];
    const { client, credentials } = await loggedIn({ onUnauthorized: () => told.push("over") });
    for (const times of [1, 2]) {
      const { access_token } = (await client.login(credentials)).data;
      await fetch(`${server.url}/auth/logout-all`, { method: "POST", headers: { Authorization: `Bearer ${access_token}` } });
      for (let calls = 0; calls < 2; calls += 1) assert.equal((await client.me()).error.status, 401);
      assert.equal(told.length, times);
    }
  });
});
