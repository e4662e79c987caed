// What the tests in Chromium stand on: a browser, a page that is watched for whatever it complains of, and the steps
// that they share. Chromium is Debian's; playwright-core and axe-core come from tests/web/package.json. With
// LATCHKEY_SCREENSHOTS set to a directory they leave pictures there.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, afterEach, before, beforeEach } from "node:test";

import { PASSWORD, freshEmail, startProxy, startServer } from "./server.js";

const { chromium } = createRequire(`${process.env.LATCHKEY_NODE_MODULES}/`)("playwright-core");
// From node_modules and not by its name: the tests stand elsewhere.
const AXE = readFileSync(`${process.env.LATCHKEY_NODE_MODULES}/node_modules/axe-core/axe.min.js`, "utf8");
// Without the flags on networking Chromium looks for its maker's hosts at every start.
const FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --host-resolver-rules=MAP\u00a0latchkey.test\u00a0127.0.0.1";
export const PATIENCE_MS = 10_000;
/** What the current test uses. */
export const t = { server: null, proxy: null, browser: null, context: null, page: null, complaints: [] };

/** One server and one browser for a file, one proxy and one context for each test. */
export function useBrowser(variables = {}) {
  before(async () => {
    t.server = await startServer(variables);
    const args = FLAGS.split(" ").map((flag) => flag.replaceAll("\u00a0", " "));
    t.browser = await chromium.launch({ executablePath: process.env.LATCHKEY_CHROMIUM, headless: true, args });
  });
  after(async () => {
    await t.browser?.close();
    assert.equal(await t.server.stop(), 0);
  });
  beforeEach(async () => {
    t.proxy = await startProxy(t.server.url);
    await open({});
  });
  afterEach(async () => {
    await t.context.close();
    t.proxy.stop();
    assert.deepEqual(t.complaints, []);
  });
}

/** A browser without history, whose page is open. Whatever the browser complains of is kept. */
export async function open({ origin = t.proxy.url, ...options }) {
  await t.context?.close();
  t.complaints = [];
  const permissions = origin === t.proxy.url ? ["clipboard-read", "clipboard-write"] : [];
  t.context = await t.browser.newContext({ baseURL: origin, permissions, reducedMotion: "reduce", viewport: { width: 1280, height: 800 }, ...options });
  t.context.setDefaultTimeout(PATIENCE_MS);
  t.context.on("page", (opened) => {
    opened.on("pageerror", (error) => t.complaints.push(String(error)));
    opened.on("console", (message) => {
      // The browser's own line for each answer of 400 and more is no defect of the page.
      const isRefusal = /^Failed to load resource: (the server responded|net::ERR_)/.test(message.text());
      if (["error", "warning"].includes(message.type()) && !isRefusal) t.complaints.push(message.text());
    });
    opened.on("request", (request) => {
      if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) t.complaints.push(`asked ${request.url()}`);
    });
  });
  await t.context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
  });
  t.page = await t.context.newPage();
  await t.page.goto("/");
  await t.page.getByRole("button", { name: "Log in", exact: true }).first().waitFor();
}

export async function register(email = freshEmail(), password = PASSWORD) {
  await t.page.locator("#sign").getByText("Register", { exact: true }).click();
  await t.page.getByLabel("E-mail").fill(email);
  await t.page.locator("#password").fill(password);
  await submit();
  await t.page.locator("#member").waitFor();
  await t.page.locator("#tasks[aria-busy=false]").waitFor({ state: "attached" });
  return email;
}

export const submit = () => t.page.locator("#sign [type=submit]").click();

export async function logIn(email, password = PASSWORD) {
  await t.page.getByLabel("E-mail").fill(email);
  await t.page.locator("#password").fill(password);
  await submit();
}

export async function addTask(title) {
  await t.page.getByLabel("New task").fill(title);
  await t.page.getByRole("button", { name: "Add", exact: true }).click();
  await t.page.locator(".task.ok", { hasText: title }).first().waitFor();
}

export const said = (text) => t.page.getByText(text).first().waitFor();

/** The last exchange of this name in the timeline. */
export const exchange = (name) => t.page.locator("#exchanges > li", { hasText: name }).last();

/** Waits until nothing is under way. */
export const settled = () => t.page.waitForFunction(() => !document.documentElement.classList.contains("busy") && !document.querySelector(".running"));

/** Runs an experiment to its end, and gives the statuses, names and tags of what it added to the timeline. */
export async function experiment(name) {
  const before = await t.page.locator("#exchanges > li").count();
  await t.page.locator("#experiments button", { has: t.page.getByText(name, { exact: true }) }).click();
  await t.page.waitForFunction((count) => document.querySelectorAll("#exchanges > li").length > count, before);
  await settled();
  const added = await t.page.locator("#exchanges > li").evaluateAll((rows, from) => rows.slice(from).map((row) => ({
    status: parseInt(row.querySelector(".status").textContent, 10),
    path: row.querySelector(".path").textContent,
    tags: [...row.querySelectorAll(".tag")].map((tag) => tag.textContent),
    lesson: row.querySelector(".lesson").textContent,
  })), before);
  return added;
}

/** What the element that has the focus is called; "body" where nothing has it. */
export const focused = () => t.page.evaluate(() => {
  const { activeElement: at } = document;
  return at === document.body ? "body" : at.getAttribute("aria-label") ?? (at.id || at.textContent.trim());
});

/** No violation that axe-core knows, in dark colours and in light ones, and nothing is wider than the window. */
export async function accessible(name) {
  if (!(await t.page.evaluate(() => "axe" in window))) await t.page.evaluate(AXE);
  // Forced colours are the system's: what the stylesheet says is not what is painted.
  const isForced = await t.page.evaluate(() => matchMedia("(forced-colors: active)").matches);
  const light = isForced ? { rules: { "color-contrast": { enabled: false } } } : {};
  for (const [colorScheme, rules] of [["dark", { runOnly: ["color-contrast"] }], ["light", light]].slice(isForced ? 1 : 0)) {
    await t.page.emulateMedia({ colorScheme });
    await picture(`${name}-${colorScheme}`);
    const violations = await t.page.evaluate(async (options) => {
      const { violations } = await axe.run(document, { ...options, resultTypes: ["violations"] });
      return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
    }, rules);
    assert.deepEqual(violations, [], `${name}, ${colorScheme}`);
  }
  await fits(name);
}

/** Nothing is wider than the window. */
export async function fits(name) {
  await picture(name);
  const [needed, given] = await t.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(needed <= given, `${name} is ${needed} wide on ${given}`);
}

async function picture(name) {
  const directory = process.env.LATCHKEY_SCREENSHOTS;
  if (directory) await t.page.screenshot({ path: `${directory}/${name}.png` });
}
