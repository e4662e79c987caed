// The page in a real browser: the flow by clicks and by keys, what it lays open, and every state that it can be in.
// Chromium is Debian's; playwright-core comes from tests/web/package.json. With LATCHKEY_SCREENSHOTS set to a directory
// it leaves pictures there.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import { createRequire } from "node:module";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { promisify } from "node:util";

import { PASSWORD, first, freshEmail, startProxy, startServer } from "./server.js";

const { chromium } = createRequire(`${process.env.LATCHKEY_NODE_MODULES}/`)("playwright-core");
// Without the flags on networking Chromium looks for its maker's hosts at every start.
const FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split(" ");
const PATIENCE_MS = 10_000;
const LIMIT = 3;

let server, proxy, browser, context, page, complaints;
before(async () => {
  server = await startServer({ LOGIN_FAILURE_LIMIT: String(LIMIT) });
  browser = await chromium.launch({ executablePath: process.env.LATCHKEY_CHROMIUM, headless: true, args: FLAGS });
});
after(async () => {
  await browser?.close();
  assert.equal(await server.stop(), 0);
});
beforeEach(async () => {
  proxy = await startProxy(server.url);
  await open({});
});
afterEach(async () => {
  await context.close();
  proxy.stop();
  assert.deepEqual(complaints, []);
});

/** A browser without history, whose page is open. Whatever the browser complains of is kept. */
async function open(options) {
  await context?.close();
  complaints = [];
  context = await browser.newContext({ baseURL: proxy.url, permissions: ["clipboard-read", "clipboard-write"], ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  context.on("page", (opened) => {
    opened.on("pageerror", (error) => complaints.push(String(error)));
    opened.on("console", (message) => {
      // The browser's own line for each answer of 400 and more is no defect of the page.
      const isRefusal = /^Failed to load resource: (the server responded|net::ERR_)/.test(message.text());
      if (["error", "warning"].includes(message.type()) && !isRefusal) complaints.push(message.text());
    });
    opened.on("request", (request) => {
      if (!request.url().startsWith(proxy.url) && !request.url().startsWith("data:")) complaints.push(`asked ${request.url()}`);
    });
  });
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
  });
  page = await context.newPage();
  await page.goto("/");
  await page.getByRole("button", { name: "Log in" }).waitFor();
}

async function register(email = freshEmail()) {
  await page.getByText("Create an account", { exact: true }).click();
  await page.getByLabel("E-mail").fill(email);
  await page.locator("#password").fill(PASSWORD);
  await page.getByRole("button", { name: "Create the account" }).click();
  await page.getByText("Nothing to do yet").waitFor();
  return email;
}

async function logIn(email, password = PASSWORD) {
  await page.getByLabel("E-mail").fill(email);
  await page.locator("#password").fill(password);
  await page.getByRole("button", { name: "Log in" }).click();
}

async function addTask(title) {
  await page.getByLabel("New task").fill(title);
  await page.getByRole("button", { name: "Add", exact: true }).click();
  await page.getByRole("checkbox", { name: title }).waitFor();
}

const exchange = (name) => page.locator("#exchanges > li", { hasText: name }).first();
const said = (text) => page.getByText(text).first().waitFor();
/** The JSON that a line of shell prints. */
async function shell(line, variables = {}) {
  const { stdout } = await promisify(execFile)("bash", ["-c", line], { env: { ...process.env, ...variables }, timeout: PATIENCE_MS });
  return JSON.parse(stdout);
}
/** What the element that has the focus is called. */
const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.id);

describe("the flow", () => {
  test("by clicks: register, add, complete, edit, delete, log out, log in", async () => {
    const email = await register();
    await addTask("Buy milk");
    await addTask("Call Grace");
    await page.getByRole("checkbox", { name: "Buy milk" }).check();
    await page.locator(".task.done").waitFor();
    await page.getByRole("button", { name: "Edit Call Grace" }).click();
    await page.getByLabel("Title").fill("Call Ada");
    await page.getByLabel("Description").last().fill("About the engine");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("checkbox", { name: "Call Ada About the engine" }).waitFor();
    await page.getByText("Done", { exact: true }).click();
    await page.getByRole("checkbox", { name: "Call Ada" }).waitFor({ state: "detached" });
    await page.getByText("All", { exact: true }).click();
    await page.getByRole("button", { name: "Delete Buy milk" }).click();
    await page.getByRole("checkbox", { name: "Buy milk" }).waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Log out", exact: true }).click();
    await said("Logged out.");
    await logIn(email);
    await page.getByRole("checkbox", { name: "Call Ada" }).waitFor();
    assert.equal(await page.getByRole("checkbox", { name: "Call Ada" }).isChecked(), false);
  });

  test("by keys alone: the same", async () => {
    const press = async (...keys) => {
      for (const key of keys) await page.keyboard.press(key);
    };
    await page.locator("[name=deed]").first().focus();
    await press("ArrowRight", "Tab");
    await page.keyboard.type(freshEmail());
    await press("Tab");
    await page.keyboard.type(PASSWORD);
    await press("Enter");
    await said("Nothing to do yet");
    assert.equal(await focused(), "title");
    await page.keyboard.type("Buy milk");
    await press("Enter");
    await page.getByRole("checkbox", { name: "Buy milk" }).waitFor();
    assert.equal(await focused(), "title");
    await press("Tab", "Tab", "Tab", "Tab", "Space");
    await page.locator(".task.done").waitFor();
    await press("Tab", "Enter");
    await page.keyboard.type("Buy tea");
    await press("Escape");
    assert.equal(await focused(), "Edit Buy milk");
    await press("Enter");
    await page.keyboard.type("Buy tea");
    await press("Enter");
    await page.getByRole("button", { name: "Edit Buy tea" }).waitFor();
    assert.equal(await focused(), "Edit Buy tea");
    await press("Tab", "Enter");
    await said("Nothing to do yet");
    assert.equal(await focused(), "title");
    await press("Shift+Tab");
    assert.equal(await focused(), "logout");
    await press("Enter");
    await said("Logged out.");
    assert.equal(await focused(), "email");
  });

  test("the password is changed, other sessions end, and the account is deleted", async () => {
    const email = await register();
    await page.getByText("Account", { exact: true }).click();
    await page.getByLabel("Current password").fill("not it at all");
    await page.getByLabel("New password").fill(`${PASSWORD} new`);
    await page.getByRole("button", { name: "Change it" }).click();
    await said("The current password is wrong.");
    await page.getByLabel("Current password").fill(PASSWORD);
    await page.getByRole("button", { name: "Change it" }).click();
    await said("The new password holds.");
    await page.locator("#confirmation").fill(`${PASSWORD} new`);
    await page.getByRole("button", { name: "Delete everything" }).click();
    await said("The account and everything in it are gone.");
    await logIn(email, `${PASSWORD} new`);
    await said("E-mail or password is wrong.");
  });
});

describe("what is laid open", () => {
  test("each exchange stands there with its request, its answer and the same in curl", async () => {
    const email = await register();
    const login = exchange("Log in");
    await login.locator("summary").click();
    const text = await login.innerText();
    for (const part of ["POST", "/auth/login", email, "200", "x-request-id", '"token_type": "bearer"', "curl -sS"]) {
      assert.ok(text.includes(part), `${part} in\n${text}`);
    }
  });

  test("no password ever stands on the page, and no token unless it is asked for", async () => {
    await register();
    await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
    const before = await page.locator("body").innerText();
    assert.ok(!before.includes(PASSWORD));
    assert.doesNotMatch(before, /eyJ[\w-]+\.[\w-]+\.[\w-]+|lkr_[\w-]{20}/);
    await page.getByLabel("Show tokens").check();
    const shown = await page.locator("body").innerText();
    assert.match(shown, /eyJ[\w-]+\.[\w-]+\.[\w-]+/);
    assert.match(shown, /lkr_[\w-]{20}/);
    assert.ok(!shown.includes(PASSWORD));
    await page.getByLabel("Show tokens").uncheck();
    assert.doesNotMatch(await page.locator("body").innerText(), /eyJ[\w-]+\.[\w-]+\.[\w-]+/);
  });

  test("the copied line of curl does the same in a shell", async () => {
    await register();
    await addTask("It’s \"quoted\" $HOME `x` \\ !");
    await page.getByLabel("Show tokens").check();
    await exchange("Add a task").getByRole("button", { name: "Copy" }).click();
    await exchange("Add a task").getByRole("button", { name: "Copied" }).waitFor();
    const line = await page.evaluate(() => navigator.clipboard.readText());
    const answer = await shell(line);
    assert.equal(answer.title, "It’s \"quoted\" $HOME `x` \\ !");
  });

  test("without the tokens the line of curl takes them and the password from the shell's variables", async () => {
    const email = await register();
    const copied = async (name) => {
      const shown = exchange(name);
      if (!(await shown.locator("details").evaluate((details) => details.open))) await shown.locator("summary").click();
      await shown.getByRole("button", { name: "Copy" }).click();
      return page.evaluate(() => navigator.clipboard.readText());
    };
    const tokens = await shell(await copied("Log in"), { password: PASSWORD });
    assert.equal(tokens.token_type, "bearer");
    assert.deepEqual(await shell(await copied("List tasks"), { token: tokens.access_token }), []);
    await page.reload();
    await page.locator("#who", { hasText: email }).waitFor();
    assert.equal((await shell(await copied("Refresh"), { refresh_token: tokens.refresh_token })).token_type, "bearer");
  });

  test("each claim is explained, and the life of the token runs down", async () => {
    await register();
    for (const claim of ["alg", "typ", "kid", "iss", "aud", "sub", "sid", "iat", "exp"]) {
      const row = page.locator("#inspector tr", { has: page.getByRole("rowheader", { name: claim, exact: true }) });
      assert.ok((await row.locator("td").last().innerText()).length > 5, claim);
    }
    const left = () => page.locator("#life strong").innerText();
    const now = await left();
    assert.match(now, /^1[45] min \d\d s left$/);
    await page.waitForFunction((then) => document.querySelector("#life strong").textContent !== then, now);
  });

  test("what is refused can be tried, and says why", async () => {
    await register();
    for (const [label, status] of [["No token", 401], ["A forged signature", 401], ["Another user’s list", 403], ["A task that is not there", 404], ["A member that is not known", 422]]) {
      await page.getByRole("button", { name: label }).click();
      await page.locator("#exchanges > li:first-child .outcome", { hasText: String(status) }).waitFor();
    }
    await addTask("Still logged in");
  });

  test("a title that looks like HTML stays text", async () => {
    await register();
    await addTask("<img src=x onerror=alert(1)>");
    assert.equal(await page.locator("main img").count(), 0);
  });
});

describe("sessions", () => {
  test("a reload goes on in the same session, with one refresh", async () => {
    const email = await register();
    await addTask("Buy milk");
    proxy.seen.length = 0;
    await page.reload();
    await page.getByRole("checkbox", { name: "Buy milk" }).waitFor();
    await page.locator("#who", { hasText: email }).waitFor();
    assert.equal(proxy.count("POST", "/auth/refresh"), 1);
    assert.equal(proxy.count("POST", "/auth/login"), 0);
  });

  test("a duplicated tab shares the session, and the first one goes on after the second has refreshed", async () => {
    await register();
    await addTask("Buy milk");
    const [other] = await Promise.all([context.waitForEvent("page"), page.evaluate(() => void window.open("/"))]);
    await other.getByRole("checkbox", { name: "Buy milk" }).waitFor();
    const stored = (tab) => tab.evaluate(() => sessionStorage.getItem("latchkey.refresh_token"));
    await page.waitForFunction((now) => sessionStorage.getItem("latchkey.refresh_token") === now, await stored(other));
    await page.reload();
    await page.getByRole("checkbox", { name: "Buy milk" }).waitFor();
    await other.waitForFunction((now) => sessionStorage.getItem("latchkey.refresh_token") === now, await stored(page));
    await page.getByRole("button", { name: "Log out", exact: true }).click();
    await other.getByText("Logged out in another tab.").waitFor();
  });

  test("two tabs hold two users apart", async () => {
    const email = await register();
    const mine = page;
    page = await context.newPage();
    await page.goto("/");
    const other = await register();
    await mine.reload();
    await mine.locator("#who", { hasText: email }).waitFor();
    await page.reload();
    await page.locator("#who", { hasText: other }).waitFor();
  });

  test("a session that was ended elsewhere leads back to the form, with the reason", async () => {
    const email = await register();
    const json = { "Content-Type": "application/json" };
    const login = await fetch(`${server.url}/auth/login`, { method: "POST", headers: json, body: JSON.stringify({ email, password: PASSWORD }) });
    const { access_token } = await login.json();
    await fetch(`${server.url}/auth/logout-all`, { method: "POST", headers: { Authorization: `Bearer ${access_token}` } });
    await page.getByLabel("New task").fill("Too late");
    await page.keyboard.press("Enter");
    await said("The session is over. Log in again.");
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  });
});

describe("every state", () => {
  test("what is missing or breaks a rule is said at its field", async () => {
    await page.getByText("Create an account", { exact: true }).click();
    await page.getByRole("button", { name: "Create the account" }).click();
    await said("Please fill this in.");
    assert.equal(await focused(), "email");
    await page.getByLabel("E-mail").fill("no e-mail");
    await page.locator("#password").fill("short");
    await page.getByRole("button", { name: "Create the account" }).click();
    await page.locator("#email-error", { hasText: "must be an e-mail address" }).waitFor();
    await page.locator("#password-error", { hasText: "at least 8 characters" }).waitFor();
    assert.equal(await page.getByLabel("E-mail").getAttribute("aria-invalid"), "true");
    await page.getByLabel("E-mail").fill(freshEmail());
    await page.locator("#password").fill("password");
    await page.getByRole("button", { name: "Create the account" }).click();
    await page.locator("#password-error", { hasNotText: "at least 8 characters", hasText: /\w/ }).waitFor();
    assert.equal(await page.getByLabel("E-mail").getAttribute("aria-invalid"), null);
  });

  test("an e-mail that is taken is said so", async () => {
    const email = await register();
    await page.getByRole("button", { name: "Log out", exact: true }).click();
    await page.getByText("Create an account", { exact: true }).click();
    await page.getByLabel("E-mail").fill(email);
    await page.locator("#password").fill(PASSWORD);
    await page.getByRole("button", { name: "Create the account" }).click();
    await said("This e-mail already has an account.");
  });

  test("after too many attempts the button waits and counts down", async () => {
    const email = freshEmail();
    for (let n = 0; n < LIMIT; n += 1) {
      await logIn(email, "wrong");
      await said("E-mail or password is wrong.");
      await page.waitForFunction(() => !document.querySelector("#sign [type=submit]").disabled);
    }
    await logIn(email, "wrong");
    await said("Too many attempts");
    const button = page.locator("#sign [type=submit]");
    assert.match(await button.innerText(), /^Wait \d+ min \d\d s$/);
    assert.equal(await button.isDisabled(), true);
    await snapshot("throttled");
  });

  test("the button comes back once the time is over", async () => {
    proxy.rules.push(first(1, "POST", "/auth/login", { status: 429, headers: { "Retry-After": "2" }, body: '{"detail":"Too many attempts; wait."}' }));
    await logIn(freshEmail(), "x");
    await page.getByRole("button", { name: "Wait" }).waitFor();
    await said("You can try again now.");
    assert.equal(await page.getByRole("button", { name: "Log in" }).isEnabled(), true);
  });

  test("while tasks are on their way the list is busy, and a failure offers to try again", async () => {
    const email = await register();
    let release;
    const held = new Promise((resolve) => (release = resolve));
    await page.route("**/api/me/tasks*", async (route) => (await held, route.continue()));
    await page.reload();
    await page.locator("#who", { hasText: email }).waitFor();
    assert.equal(await page.locator("#tasks").getAttribute("aria-busy"), "true");
    assert.equal(await page.locator(".skeleton").count(), 3);
    release();
    await said("Nothing to do yet");
    proxy.rules.push(first(1, "GET", "/api/me/tasks", { status: 500, body: '{"detail":"The server failed to answer this request."}' }));
    await page.getByText("Open", { exact: true }).click();
    await said("The server failed to answer this request.");
    await page.getByRole("button", { name: "Try again" }).click();
    await said("Nothing is open");
  });

  test("offline is said, what fails is put back, and being back loads the tasks again", async () => {
    await register();
    await addTask("Buy milk");
    await context.setOffline(true);
    await said("You are offline.");
    await page.getByRole("checkbox", { name: "Buy milk" }).click();
    await said("Buy milk: The server did not answer.");
    assert.equal(await page.getByRole("checkbox", { name: "Buy milk" }).isChecked(), false);
    await snapshot("offline");
    await context.setOffline(false);
    await page.getByText("You are offline.").waitFor({ state: "hidden" });
    await page.getByText("Buy milk: The server did not answer.").waitFor({ state: "detached" });
    await page.getByRole("checkbox", { name: "Buy milk" }).waitFor();
  });

  test("a server that is away at the start does not cost the session", async () => {
    const email = await register();
    proxy.rules.push((request) => (request.path === "/auth/refresh" ? { status: 500, body: "{}" } : undefined));
    await page.reload();
    await said("Reload the page to go on with your session.");
    proxy.rules.length = 0;
    await page.reload();
    await page.locator("#who", { hasText: email }).waitFor();
  });

  test("more tasks than one page come when they are asked for", async () => {
    const email = await register();
    const json = { "Content-Type": "application/json" };
    const login = await fetch(`${server.url}/auth/login`, { method: "POST", headers: json, body: JSON.stringify({ email, password: PASSWORD }) });
    const { access_token } = await login.json();
    for (let n = 0; n < 51; n += 1) {
      const body = JSON.stringify({ title: `Task ${n}` });
      await fetch(`${server.url}/api/me/tasks`, { method: "POST", headers: { ...json, Authorization: `Bearer ${access_token}` }, body });
    }
    await page.reload();
    await page.getByRole("button", { name: "Show more" }).click();
    await page.getByRole("checkbox", { name: "Task 50" }).waitFor();
    assert.equal(await page.locator(".task").count(), 51);
    await page.getByRole("button", { name: "Show more" }).waitFor({ state: "detached" });
  });
});

describe("a front end on another origin", () => {
  test("uses the API through the client where its origin is listed, and reads nothing where it is not", async () => {
    const front = http.createServer((_, response) => response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html><title>front</title>"));
    await once(front.listen(0, "127.0.0.1"), "listening");
    const { port } = front.address();
    const api = await startServer({ CORS_ORIGINS: `http://127.0.0.1:${port}` });
    const visit = async (origin) => {
      const elsewhere = await browser.newContext();
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

describe("how it looks", () => {
  const sizes = [["phone", 390, 844], ["desktop", 1280, 900]];
  for (const colorScheme of ["light", "dark"]) {
    for (const [name, width, height] of sizes) {
      test(`nothing is wider than a ${name} (${width} pixels, ${colorScheme}), and no text is too pale`, async () => {
        await open({ colorScheme, viewport: { width, height } });
        await fits(width, `guest-${colorScheme}-${name}`);
        await register("ada.lovelace." + freshEmail());
        await fits(width, `empty-${colorScheme}-${name}`);
        for (const title of ["Buy milk", "Read RFC 9457, sections 3 and 4, and write down what each member means", "x".repeat(200)]) await addTask(title);
        await page.getByRole("checkbox", { name: "Buy milk" }).check();
        await page.locator(".task.done").waitFor();
        await page.getByRole("button", { name: "A forged signature" }).click();
        await page.locator("#exchanges > li:first-child .outcome", { hasText: "401" }).waitFor();
        await page.getByLabel("Show tokens").check();
        await fits(width, `tasks-${colorScheme}-${name}`);
        await page.goto("/docs#validation");
        await fits(width, `docs-${colorScheme}-${name}`);
      });
    }
  }
});

async function fits(width, name) {
  await snapshot(name);
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width, `${name} scrolls sideways`);
  assert.deepEqual(await page.evaluate(paleTexts), [], name);
}

async function snapshot(name) {
  const directory = process.env.LATCHKEY_SCREENSHOTS;
  if (!directory) return;
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${directory}/${name}.png`, fullPage: true });
}

/** Runs in the page: the texts whose contrast is under WCAG's 4.5 to 1. */
function paleTexts() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const pale = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.disabled || element.closest("noscript")) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) pale.push(`${element.tagName}.${element.className} ${contrast.toFixed(2)}: ${element.textContent.slice(0, 30)}`);
  }
  return pale;
}
