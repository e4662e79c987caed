// `api.js` with `getToken`: the tokens of another issuer. Tokens of latchkey's own stand in for them.

import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { afterEach, describe, mock, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";

import { createClient } from "../../src/web/api.js";
import { loggedIn, must, nextSecond, poison, proxy, raw } from "./client.js";

/** A user with a `token`, and `next()` for a later one. */
async function user() {
  const { credentials } = await loggedIn();
  const login = async () => (await (await raw("/auth/login", credentials)).json()).access_token;
  const next = async () => (await nextSecond(), login());
  return { email: credentials.email, token: await login(), next };
}
const emailOf = async (client) => (await must(client.me())).email;
/** What Better Auth's `authClient.token()` resolves to when nobody is signed in. */
const SIGNED_OUT = { data: null, error: { message: "Sign in first", status: 401, statusText: "UNAUTHORIZED" } };
/** A page has a `document`; Node.js has none. */
const inPage = () => void (globalThis.document = {});
afterEach(() => void delete globalThis.document);

test("S63 getToken is asked for each call: no token outlives it", async () => {
  const [ada, bob] = [await user(), await user()];
  const told = [];
  let answer = { data: { token: ada.token } };
  inPage();
  const getToken = mock.fn(async () => answer);
  const client = createClient({ baseUrl: proxy.url, getToken, onUnauthorized: (error) => told.push(error.detail) });
  assert.equal(await emailOf(client), ada.email);
  answer = { data: { token: bob.token } };
  assert.equal(await emailOf(client), bob.email);
  answer = SIGNED_OUT;
  assert.equal((await client.me()).error.status, 401);
  assert.equal((await client.tasks.list()).error.status, 401);
  assert.deepEqual(told, ["Sign in first"]);
  answer = { data: { token: ada.token } };
  assert.equal(await emailOf(client), ada.email);
  answer = null;
  assert.equal((await client.me()).error.status, 401);
  assert.equal(told.length, 2);
  assert.equal(getToken.mock.callCount(), 6);
  assert.equal(proxy.count("POST", "/auth/refresh"), 0);
});

describe("getToken", () => {
  test("in a page calls in flight share one answer", async () => {
    const ada = await user();
    inPage();
    const getToken = mock.fn(() => delay(20, { data: { token: ada.token } }));
    const client = createClient({ baseUrl: proxy.url, getToken });
    await Promise.all(Array.from({ length: 20 }, () => must(client.me())));
    assert.equal(getToken.mock.callCount(), 1);
    await must(client.me());
    assert.equal(getToken.mock.callCount(), 2);
  });

  test("on a server one client never mixes up two visitors", async () => {
    const [ada, bob] = [await user(), await user()];
    const visitor = new AsyncLocalStorage();
    const told = [];
    const getToken = async () => (await delay(20), visitor.getStore().token);
    const client = createClient({ baseUrl: proxy.url, getToken, onUnauthorized: (error) => told.push(error.status) });
    const visits = [ada, bob, ada, bob].map((who) => visitor.run(who, () => emailOf(client)));
    assert.deepEqual(await Promise.all(visits), [ada.email, bob.email, ada.email, bob.email]);
    const guests = [1, 2].map(() => visitor.run({ token: null }, () => client.me()));
    assert.deepEqual((await Promise.all(guests)).map(({ error }) => error.status), [401, 401]);
    assert.deepEqual(told, [401, 401]);
  });

  test("may return a string, {data: {token}} or {token}", async () => {
    const { token } = await user();
    for (const answer of [token, { data: { token } }, { token }, { data: { token }, error: null }]) {
      for (const getToken of [() => answer, async () => answer]) {
        await must(createClient({ baseUrl: proxy.url, getToken }).me());
      }
    }
  });

  test("may return nothing, an error, or throw", async () => {
    const thrown = Object.assign(new Error("Unauthorized"), { status: "UNAUTHORIZED", statusCode: 401 });
    for (const [getToken, status, title] of [
      ...[null, undefined, "", {}, { data: null }, { data: {} }, 7].map((answer) => [() => answer, 401, "Not authenticated"]),
      [() => SIGNED_OUT, 401, "UNAUTHORIZED"],
      [() => ({ error: { message: "Too many" , status: 429 } }), 429, "No token"],
      [() => new Error("offline"), 0, "No token"],
      [() => Promise.reject(new Error("offline")), 0, "No token"],
      [() => Promise.reject(), 0, "No token"],
      [() => { throw thrown; }, 401, "No token"],
    ]) {
      const { data, error } = await createClient({ baseUrl: proxy.url, getToken }).me();
      assert.equal(data, null);
      assert.deepEqual([error.status, error.title, typeof error.detail], [status, title, "string"]);
    }
  });

  test("after a 401 it is asked again, and the call repeated once", async () => {
    const ada = await user();
    const answers = [ada.token, await ada.next()];
    const getToken = mock.fn(() => answers.shift());
    const client = createClient({ baseUrl: proxy.url, getToken });
    proxy.rules.push(poison(ada.token));
    proxy.seen.length = 0;
    await must(client.tasks.create({ title: "once" }));
    assert.equal(getToken.mock.callCount(), 2);
    assert.equal(proxy.seen.length, 2);
  });

  test("after a 401 the same token is not sent again", async () => {
    const ada = await user();
    const client = createClient({ baseUrl: proxy.url, getToken: () => ada.token });
    proxy.rules.push(poison(ada.token));
    proxy.seen.length = 0;
    assert.equal((await client.me()).error.status, 401);
    assert.equal(proxy.seen.length, 1);
  });

  test("after a 401 a call is never repeated as another user", async () => {
    const [ada, bob] = [await user(), await user()];
    const answers = [ada.token, bob.token];
    const told = [];
    const getToken = () => answers.shift() ?? bob.token;
    const client = createClient({ baseUrl: proxy.url, getToken, onUnauthorized: (error) => told.push(error) });
    proxy.rules.push(poison(ada.token));
    assert.equal((await client.tasks.create({ title: "Ada's" })).error.status, 401);
    assert.deepEqual(await must(client.tasks.list()), []);
    assert.deepEqual(told, [], "Bob is signed in");
  });

  test("hasSession asks it and nobody else", async () => {
    const { token } = await user();
    proxy.seen.length = 0;
    for (const [answer, expected] of [[token, true], [SIGNED_OUT, false], [null, false]]) {
      assert.equal(await createClient({ baseUrl: proxy.url, getToken: () => answer }).hasSession(), expected);
    }
    const getToken = () => Promise.reject(new Error("offline"));
    assert.equal(await createClient({ baseUrl: proxy.url, getToken }).hasSession(), false);
    assert.equal(proxy.seen.length, 0);
  });

  test("logout resolves without a request and shares no answer on", async () => {
    const [ada, bob] = [await user(), await user()];
    inPage();
    let slow;
    const answers = [new Promise((resolve) => (slow = resolve)), bob.token];
    const client = createClient({ baseUrl: proxy.url, getToken: () => answers.shift() });
    proxy.seen.length = 0;
    const before = client.me();
    assert.deepEqual(await client.logout(), { data: null, error: null });
    assert.equal(proxy.seen.length, 0);
    assert.equal(await emailOf(client), bob.email);
    slow(ada.token);
    assert.equal((await must(before)).email, ada.email);
  });

  test("login keeps no token beside it", async () => {
    const { credentials } = await loggedIn();
    const client = createClient({ baseUrl: proxy.url, getToken: () => null });
    await must(client.login(credentials));
    assert.equal((await client.me()).error.status, 401);
  });
});
