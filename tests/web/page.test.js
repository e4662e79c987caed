// The page as an application: account and tasks by clicks and by keys, every state that it can be in, sessions over tabs
// and reloads, how it looks on every screen, and a front end on another origin.

import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { describe, test } from "node:test";

import { accessible, addTask, exchange, experiment, fits, focused, logIn, open, register, said, settled, submit, t, useBrowser } from "./browser.js";
import { PASSWORD, first, freshEmail, startServer } from "./server.js";

/** Failed logins until the server makes an e-mail wait. */
const LIMIT = 3;
useBrowser({ LOGIN_FAILURE_LIMIT: String(LIMIT) });

const JSON_TYPE = { "Content-Type": "application/json" };
const titles = () => t.page.locator(".task .title").allInnerTexts();
const checkbox = (title) => t.page.getByRole("checkbox", { name: title, exact: true });
const signButton = () => t.page.locator("#sign [type=submit]");
/** Holds the answer to the next request of this kind until `release` is called. */
function held(method, path) {
  let release;
  const until = new Promise((resolve) => (release = resolve));
  t.proxy.rules.push(first(1, method, path, { answer: () => until }));
  return release;
}
const broken = { status: 500, headers: JSON_TYPE, body: '{"detail":"The server failed to answer this request."}' };

describe("account and tasks", () => {
  test("by clicks: register, add, complete, edit, delete, log out, log in", async () => {
    const email = await register();
    await addTask("Buy milk");
    await addTask("Call Grace");
    await checkbox("Buy milk").click();
    await t.page.locator(".task.done").waitFor();
    await t.page.getByRole("button", { name: "Edit Call Grace" }).click();
    await t.page.getByLabel("Title", { exact: true }).fill("Call Ada");
    await t.page.locator(".task").getByLabel("Description").fill("About the engine");
    await t.page.getByRole("button", { name: "Save" }).click();
    await checkbox("Call Ada About the engine").waitFor();
    await t.page.locator("#filter").getByText("Done").click();
    assert.deepEqual(await titles(), ["Buy milk"]);
    await t.page.locator("#filter").getByText("All").click();
    await t.page.getByRole("button", { name: "Delete Buy milk" }).click();
    await t.page.getByText("Deleted: Buy milk").waitFor();
    await t.page.getByRole("button", { name: "Log out", exact: true }).click();
    await said("Logged out.");
    await logIn(email);
    await checkbox("Call Ada About the engine").waitFor();
    assert.deepEqual(await titles(), ["Call Ada"]);
  });

  test("by keys alone: the same, and the focus never falls to the body", async () => {
    const press = async (...keys) => {
      for (const key of keys) await t.page.keyboard.press(key);
      await settled();
      assert.notEqual(await focused(), "body", keys.join());
    };
    await t.page.locator("[name=deed]").first().focus();
    await press("ArrowRight", "Tab");
    await t.page.keyboard.type(freshEmail());
    await press("Tab");
    await t.page.keyboard.type(PASSWORD);
    await press("Enter");
    await said("Nothing to do yet");
    assert.equal(await focused(), "title");
    for (const title of ["Buy milk", "Buy bread"]) {
      await t.page.keyboard.type(title);
      await press("Enter");
      await checkbox(title).waitFor();
      assert.equal(await focused(), "title");
    }
    await press("Tab", "Tab", "Tab", "Tab", "Space");
    await t.page.locator(".task.done").waitFor();
    assert.match(await t.page.evaluate(() => document.activeElement.id), /^task-/);
    await press("Tab", "Enter");
    await t.page.keyboard.type("Buy tea");
    await press("Escape");
    assert.equal(await focused(), "Edit Buy bread");
    await press("Enter");
    await t.page.keyboard.type("Buy tea");
    await press("Enter");
    await t.page.getByRole("button", { name: "Edit Buy tea" }).waitFor();
    assert.equal(await focused(), "Edit Buy tea");
    await press("Tab", "Enter");
    await t.page.getByText("Deleted: Buy tea").waitFor();
    assert.equal(await focused(), "Undo: Buy tea comes back");
    await press("Enter");
    await checkbox("Buy tea").waitFor();
    await t.page.getByRole("button", { name: "Log out", exact: true }).focus();
    await press("Enter");
    await said("Logged out.");
    assert.equal(await focused(), "password");
  });

  test("the password is changed, other sessions end, and the account is deleted", async () => {
    const email = await register();
    await t.page.getByText("Account", { exact: true }).click();
    await t.page.getByLabel("Current password").fill("not it at all");
    await t.page.getByLabel("New password").fill(`${PASSWORD} new`);
    await t.page.getByRole("button", { name: "Change it" }).click();
    await said("The current password is wrong.");
    await t.page.getByLabel("Current password").fill(PASSWORD);
    await t.page.getByLabel("New password").fill("password");
    await t.page.getByRole("button", { name: "Change it" }).click();
    await said("The new password is too easy to guess");
    await t.page.getByLabel("New password").fill(`${PASSWORD} new`);
    await t.page.getByRole("button", { name: "Change it" }).click();
    await said("The new password holds.");
    await t.page.locator("#confirmation").fill(`${PASSWORD} new`);
    await t.page.getByRole("button", { name: "Delete everything" }).click();
    await said("The account and everything in it are gone.");
    await logIn(email, `${PASSWORD} new`);
    await said("E-mail or password is wrong.");
  });
});

describe("tasks", () => {
  test("the newest stands first, is there at once, and each filter counts", async () => {
    await register();
    await addTask("First");
    const release = held("POST", "/api/me/tasks");
    await t.page.getByLabel("New task").fill("Second");
    await t.page.keyboard.press("Enter");
    await t.page.locator(".task.pending", { hasText: "Second" }).getByText("Saving…").waitFor();
    assert.deepEqual(await titles(), ["Second", "First"]);
    release();
    await t.page.locator(".task.ok", { hasText: "Second" }).waitFor();
    await checkbox("First").click();
    await t.page.locator(".task.done").waitFor();
    assert.deepEqual(await t.page.locator("#filter b").allInnerTexts(), ["2", "1", "1"]);
    await t.page.locator("#filter").getByText("Done").click();
    await t.page.getByLabel("New task").fill("Third");
    await t.page.keyboard.press("Enter");
    await checkbox("Third").waitFor();
    await t.page.reload();
    await checkbox("Third").waitFor();
    assert.deepEqual(await titles(), ["Third", "Second", "First"]);
  });

  test("what fails says so in its row, and can be tried again", async () => {
    await register();
    t.proxy.rules.push(first(1, "POST", "/api/me/tasks", broken));
    await t.page.getByLabel("New task").fill("Buy milk");
    await t.page.keyboard.press("Enter");
    const row = t.page.locator(".task", { hasText: "Buy milk" });
    await row.getByText("The server failed to answer this request.").waitFor();
    await row.getByRole("button", { name: "Try again" }).click();
    await t.page.locator(".task.ok", { hasText: "Buy milk" }).waitFor();
    assert.notEqual(await focused(), "body");
    const { task } = await t.page.evaluate(() => ({ task: document.querySelector(".task input").id.slice(5) }));
    for (const [method, path, act] of [
      ["PATCH", `/api/me/tasks/${task}/complete`, () => checkbox("Buy milk").click()],
      ["DELETE", `/api/me/tasks/${task}`, () => t.page.getByRole("button", { name: "Delete Buy milk" }).click()],
    ]) {
      t.proxy.rules.push(first(1, method, path, broken));
      await act();
      await row.getByText("The server failed to answer this request.").waitFor();
      assert.equal(await checkbox("Buy milk").isChecked(), method === "DELETE");
      assert.notEqual(await focused(), "body");
      await accessible(`failed-${method}`);
      await row.getByRole("button", { name: "Try again" }).click();
      await row.getByText("The server failed").waitFor({ state: "detached" });
      await settled();
    }
    await t.page.getByText("Deleted: Buy milk").waitFor();
  });

  test("a deleted task comes back, done if it was done", async () => {
    await register();
    await addTask("Buy milk");
    await checkbox("Buy milk").click();
    await t.page.locator(".task.done.ok").waitFor();
    await t.page.getByRole("button", { name: "Delete Buy milk" }).click();
    await t.page.getByRole("button", { name: "Undo" }).click();
    await t.page.locator(".task.ok", { hasText: "Buy milk" }).waitFor();
    await t.page.reload();
    await t.page.locator(".task.done").waitFor();
    assert.ok(await checkbox("Buy milk").isChecked());
  });

  test("S62 what users wrote is shown as text, never as HTML", async () => {
    await register();
    const html = "<img src=x onerror=alert(1)><b>bold</b>";
    await addTask(html);
    await t.page.reload();
    await t.page.locator(".task .title").waitFor();
    assert.deepEqual(await titles(), [html]);
    await exchange("List tasks").locator("summary").first().click();
    await t.page.getByRole("button", { name: "Delete <img" }).click();
    await t.page.getByRole("button", { name: "Undo" }).waitFor();
    assert.equal(await t.page.locator("main img, main .title b, pre b").count(), 0);
  });

  test("a text runs in its own direction, and a long title is clamped", async () => {
    await register();
    await addTask("שלום עולם");
    await addTask("x".repeat(250));
    const direction = await t.page.locator(".title", { hasText: "שלום" }).evaluate((title) => getComputedStyle(title).direction);
    assert.equal(direction, "rtl");
    const { height } = await t.page.locator(".title", { hasText: "xxx" }).boundingBox();
    assert.ok(height < 90, String(height));
    for (const id of ["#title", "#description"]) assert.equal(await t.page.locator(id).getAttribute("dir"), "auto");
  });

  test("many tasks come page after page, and are shown by the hundred", async () => {
    const email = await register();
    const login = await fetch(`${t.server.url}/auth/login`, { method: "POST", headers: JSON_TYPE, body: JSON.stringify({ email, password: PASSWORD }) });
    const { access_token } = await login.json();
    const headers = { ...JSON_TYPE, Authorization: `Bearer ${access_token}` };
    for (let n = 0; n < 103; n += 1) await fetch(`${t.server.url}/api/me/tasks`, { method: "POST", headers, body: JSON.stringify({ title: `Task ${n}` }) });
    await t.page.reload();
    await checkbox("Task 102").waitFor();
    assert.equal(await t.page.locator(".task").count(), 100);
    await t.page.getByRole("button", { name: "Show 3 more of 3" }).click();
    assert.equal(await t.page.locator(".task").count(), 103);
    assert.equal((await titles()).at(-1), "Task 0");
    assert.match(await t.page.evaluate(() => document.activeElement.id), /^task-/);
  });
});

describe("every state", () => {
  test("what is missing or breaks a rule is said at its field, in the user's words", async () => {
    await t.page.locator("#sign").getByText("Register", { exact: true }).click();
    await submit();
    await said("Please fill this in.");
    assert.equal(await focused(), "email");
    await t.page.getByLabel("E-mail").fill("no e-mail");
    await t.page.locator("#password").fill("short");
    await submit();
    await t.page.locator("#email-error", { hasText: "The e-mail must be an e-mail address" }).waitFor();
    await t.page.locator("#password-error", { hasText: "The password must be at least 8 characters" }).waitFor();
    assert.equal(await t.page.getByLabel("E-mail").getAttribute("aria-invalid"), "true");
    await accessible("invalid");
    await t.page.getByLabel("E-mail").fill(freshEmail());
    await t.page.locator("#password").fill("password");
    await submit();
    await t.page.locator("#password-error", { hasText: "The password is too easy to guess" }).waitFor();
    assert.equal(await t.page.getByLabel("E-mail").getAttribute("aria-invalid"), null);
    await register();
    await t.page.getByLabel("New task").fill("   ");
    await t.page.keyboard.press("Enter");
    await said("The title must not be all white space.");
    assert.equal(await focused(), "title");
    assert.equal(await t.page.locator(".task").count(), 0);
  });

  test("whatever takes longer than half a second says so", async () => {
    for (const [path, act, words] of [
      ["/auth/login", () => logIn(freshEmail(), "x"), "The server is still working on it…"],
    ]) {
      const release = held("POST", path);
      await act();
      await said(words);
      assert.equal(await signButton().getAttribute("aria-busy"), "true");
      assert.equal(await t.page.evaluate(() => getComputedStyle(document.querySelector(".top"), "::after").opacity), "1");
      release();
      await said("E-mail or password is wrong.");
    }
    const email = await register();
    const release = held("GET", "/api/me/tasks");
    await t.page.reload();
    await t.page.locator("#who", { hasText: email }).waitFor();
    assert.equal(await t.page.locator("#tasks").getAttribute("aria-busy"), "true");
    assert.equal(await t.page.locator(".skeleton").count(), 3);
    release();
    await said("Nothing to do yet");
  });

  test("a list that cannot be had offers to try again", async () => {
    await register();
    t.proxy.rules.push(first(1, "GET", "/api/me/tasks", broken));
    await t.page.reload();
    await said("The server failed to answer this request.");
    await t.page.getByRole("button", { name: "Try again", exact: true }).click();
    await said("Nothing to do yet");
    assert.equal(await focused(), "title");
  });

  test("too many attempts lock the e-mail that they are about, and nothing else", async () => {
    const [email, other] = [await register(), freshEmail()];
    await t.page.getByRole("button", { name: "Log out", exact: true }).click();
    for (let n = 0; n < LIMIT; n += 1) {
      await logIn(email, "wrong");
      await said("E-mail or password is wrong.");
      await settled();
    }
    await logIn(email, "wrong");
    await said("Too many attempts");
    assert.match(await signButton().innerText(), /^Wait \d+ min \d\d s$/);
    assert.equal(await signButton().getAttribute("aria-disabled"), "true");
    await accessible("throttled");
    await t.page.getByLabel("E-mail").fill(other);
    assert.equal(await signButton().innerText(), "Log in");
    await t.page.getByLabel("E-mail").fill(email);
    assert.match(await signButton().innerText(), /^Wait/);
    await register(other);
    await addTask("Not locked");
  });

  test("the button comes back once the time is over", async () => {
    t.proxy.rules.push(first(1, "POST", "/auth/login", { status: 429, headers: { "Retry-After": "2" }, body: '{"detail":"Too many attempts; wait."}' }));
    await logIn(freshEmail(), "x");
    await t.page.getByRole("button", { name: /^Wait/ }).waitFor();
    await said("You can try again now.");
    assert.equal(await signButton().getAttribute("aria-disabled"), "false");
  });

  test("offline is said, what fails is put back, and being back loads the tasks again", async () => {
    await register();
    await addTask("Buy milk");
    await t.context.setOffline(true);
    await said("You are offline.");
    await checkbox("Buy milk").click();
    await t.page.locator(".failure", { hasText: "The server did not answer." }).waitFor();
    assert.equal(await checkbox("Buy milk").isChecked(), false);
    await accessible("offline");
    await t.context.setOffline(false);
    await t.page.getByText("You are offline.").waitFor({ state: "hidden" });
    await t.page.locator(".failure").waitFor({ state: "detached" });
    await checkbox("Buy milk").waitFor();
  });

  test("a reload while the database is away keeps the session, says so, and goes on by itself", async () => {
    const email = await register();
    const away = { status: 503, headers: { ...JSON_TYPE, "Retry-After": "1" }, body: '{"detail":"The database does not answer at the moment."}' };
    t.proxy.rules.push((request) => (request.path === "/auth/refresh" ? away : undefined));
    await t.page.reload();
    await said("Your session is kept");
    assert.ok(!(await t.page.locator("#guest").isVisible()));
    await said("The database does not answer at the moment.");
    await said("The refresh token is kept.");
    await accessible("away");
    t.proxy.rules.length = 0;
    await t.page.locator("#who", { hasText: email }).waitFor();
  });
});

describe("sessions", () => {
  test("a reload goes on in the same session, with one refresh", async () => {
    const email = await register();
    await addTask("Buy milk");
    t.proxy.seen.length = 0;
    await t.page.reload();
    await checkbox("Buy milk").waitFor();
    await t.page.locator("#who", { hasText: email }).waitFor();
    assert.equal(t.proxy.count("POST", "/auth/refresh"), 1);
    assert.equal(t.proxy.count("POST", "/auth/login"), 0);
  });

  test("a duplicated tab shares the session, and the first one goes on after the second has refreshed", async () => {
    await register();
    await addTask("Buy milk");
    const [other] = await Promise.all([t.context.waitForEvent("page"), t.page.evaluate(() => void window.open("/"))]);
    await other.getByRole("checkbox", { name: "Buy milk" }).waitFor();
    const stored = (tab) => tab.evaluate(() => sessionStorage.getItem("latchkey.refresh_token"));
    await t.page.waitForFunction((now) => sessionStorage.getItem("latchkey.refresh_token") === now, await stored(other));
    await t.page.reload();
    await checkbox("Buy milk").waitFor();
    await other.waitForFunction((now) => sessionStorage.getItem("latchkey.refresh_token") === now, await stored(t.page));
  });

  test("two tabs hold two users apart", async () => {
    const email = await register();
    const mine = t.page;
    t.page = await t.context.newPage();
    await t.page.goto("/");
    const other = await register();
    await mine.reload();
    await mine.locator("#who", { hasText: email }).waitFor();
    await t.page.reload();
    await t.page.locator("#who", { hasText: other }).waitFor();
  });

  test("a session that was ended elsewhere leads back to the form, with the reason", async () => {
    const email = await register();
    const login = await fetch(`${t.server.url}/auth/login`, { method: "POST", headers: JSON_TYPE, body: JSON.stringify({ email, password: PASSWORD }) });
    const { access_token } = await login.json();
    await fetch(`${t.server.url}/auth/logout-all`, { method: "POST", headers: { Authorization: `Bearer ${access_token}` } });
    await t.page.getByLabel("New task").fill("Too late");
    await t.page.keyboard.press("Enter");
    await t.page.locator("#guest").getByText("The session is over. Log in again.").waitFor();
    assert.equal(await t.page.evaluate(() => sessionStorage.length), 0);
    assert.notEqual(await focused(), "body");
  });
});

describe("how it looks", () => {
  for (const [width, height] of [[390, 844], [1024, 768], [1280, 800], [1920, 1080]]) {
    test(`${width} by ${height}: nothing is cut off, and axe-core finds nothing on a phone and a laptop`, async () => {
      await open({ viewport: { width, height }, hasTouch: width < 500 });
      const state = (name) => ([390, 1280].includes(width) ? accessible : fits)(`${name}-${width}`);
      const view = async (name) => width < 1024 && (await t.page.locator(`.views label:has(#view-${name})`).click());
      await state("first");
      await register(`ada.lovelace.${freshEmail()}`);
      for (const title of ["Buy milk", "Read RFC 9457, sections 3 and 4, and write down what each member means", "x".repeat(200)]) await addTask(title);
      await state("member");
      await view("flow");
      await experiment("Altered claim");
      await state("experiment");
      await view("token");
      if (width >= 1024) await t.page.locator("#token-strip").click();
      await state("token");
      if (width < 1024) return targets();
      await t.page.locator("#token-strip").click();
      await t.page.getByRole("button", { name: "Set up your shell" }).click();
      await state("shell");
      await t.page.locator("#shell").getByRole("button", { name: "Close" }).click();
      await t.page.locator("#present").click();
      await state("present");
    });
  }

  /** On a phone each view is a tab below, and what is touched is 44 pixels large. */
  async function targets() {
    for (const name of ["tasks", "flow", "token"]) {
      const tab = t.page.locator(`.views label:has(#view-${name})`);
      await tab.click();
      const { y, height } = await tab.boundingBox();
      assert.ok(y + height > 840 && height >= 44);
      const small = await t.page.evaluate(() => [...document.querySelectorAll("button, a, select, summary, input, label:has(input)")]
        .filter((each) => each.checkVisibility() && !each.matches(".skip, .exchange a, input[type=radio], input[type=checkbox], .unseen"))
        .map((each) => [each.outerHTML.slice(0, 80), each.getBoundingClientRect()])
        .filter(([, { width, height }]) => height < 44 || width < 44).map(([html, { width, height }]) => `${html} ${width} by ${height}`));
      assert.deepEqual(small, [], name);
    }
  }

  test("in forced colours the step, the choice and the tab can be told apart", async () => {
    await open({ forcedColors: "active" });
    await register();
    await experiment("No token");
    for (const selector of [".step.lit .do", ".segments input:checked + span", "[role=tab][aria-selected=true]"]) {
      const outline = await t.page.locator(selector).filter({ visible: true }).first().evaluate((element) => getComputedStyle(element).outlineStyle);
      assert.equal(outline, "solid", selector);
    }
    await accessible("forced-colours");
  });
});

describe("a front end on another origin", () => {
  test("uses the API through the client where its origin is listed, and reads nothing where it is not", async () => {
    const front = http.createServer((_, response) => response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html><title>front</title>"));
    await once(front.listen(0, "127.0.0.1"), "listening");
    const { port } = front.address();
    const api = await startServer({ CORS_ORIGINS: `http://127.0.0.1:${port}` });
    const visit = async (origin) => {
      const elsewhere = await t.browser.newContext();
      const tab = await elsewhere.newPage();
      await tab.goto(origin);
      const outcome = await tab.evaluate(useTheApi, [api.url, { email: freshEmail(), password: PASSWORD }]);
      await elsewhere.close();
      return outcome;
    };
    const listed = await visit(`http://127.0.0.1:${port}`);
    const other = await visit(`http://localhost:${port}`);
    front.close();
    front.closeAllConnections();
    await api.stop();
    assert.deepEqual(listed, { titles: ["1", "2", "3"], refused: 404, open: "200" });
    assert.deepEqual(other, { failed: "TypeError", open: "TypeError" });
  });

  /** Runs in the page of the other origin: import the client, log in, write, follow the links, read a refusal. */
  async function useTheApi([api, credentials]) {
    const open = await fetch(`${api}/healthz`).then((answer) => String(answer.status), (cause) => cause.name);
    try {
      const { createClient } = await import(`${api}/api.js`);
      const client = createClient({ baseUrl: api });
      await client.register(credentials);
      await client.login(credentials);
      for (const title of ["1", "2", "3"]) await client.tasks.create({ title });
      const titles = [];
      for await (const { data, error } of client.tasks.list({ limit: 1 })) titles.push(data?.title ?? error.detail);
      return { titles, refused: (await client.tasks.get("nowhere")).error.status, open };
    } catch (cause) {
      return { failed: cause.name, open };
    }
  }
});
