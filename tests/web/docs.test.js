// The reference in a real browser: on every screen, in both schemes, without JavaScript, on paper. Chromium is Debian's;
// playwright-core and axe-core come from tests/web/package.json. With LATCHKEY_SCREENSHOTS set to a directory it leaves
// pictures there.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import { startServer } from "./server.js";

const { chromium } = createRequire(`${process.env.LATCHKEY_NODE_MODULES}/`)("playwright-core");
// From node_modules and not by its name: the tests stand elsewhere.
const AXE = readFileSync(`${process.env.LATCHKEY_NODE_MODULES}/node_modules/axe-core/axe.min.js`, "utf8");
// Without the flags on networking Chromium looks for its maker's hosts at every start.
const FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split(" ");
const SCREENS = { phone: [390, 844], tablet: [820, 1180], laptop: [1280, 800], projector: [1920, 1080], wall: [2560, 1440] };

let server, browser;
before(async () => {
  server = await startServer();
  browser = await chromium.launch({ executablePath: process.env.LATCHKEY_CHROMIUM, headless: true, args: FLAGS });
});
after(async () => {
  await browser?.close();
  assert.equal(await server.stop(), 0);
});

/** Opens the reference, looks at it, and fails on whatever the browser complained of. */
async function visit(options, look, path = "/docs") {
  const complaints = [];
  const context = await browser.newContext({ baseURL: server.url, permissions: ["clipboard-read", "clipboard-write"], ...options });
  context.setDefaultTimeout(10_000);
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  await page.goto(path);
  await look(page);
  await context.close();
  assert.deepEqual(complaints, []);
}

async function picture(page, name, options = {}) {
  const directory = process.env.LATCHKEY_SCREENSHOTS;
  if (directory) await page.screenshot({ path: `${directory}/${name}.png`, ...options });
}

for (const [name, [width, height]] of Object.entries(SCREENS)) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the reference is accessible and fits on a ${name}, ${colorScheme}`, () => visit({ viewport: { width, height }, colorScheme }, async (page) => {
      await picture(page, `docs-${name}-${colorScheme}`);
      await page.evaluate(AXE);
      const violations = await page.evaluate(async () => {
        const { violations } = await axe.run(document, { resultTypes: ["violations"] });
        return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
      });
      assert.deepEqual(violations, []);
      const [needed, given] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(needed <= given, `${needed} wide on ${given}`);
    }));
  }
}

test("a line is copied as it stands, with the server's own address", () => visit({}, async (page) => {
  for (const [section, expected] of [["#set-up", `base=${server.url}\n`], ["#readMe", 'curl -sS "$base/auth/me" -H "$bearer"']]) {
    await page.locator(section).getByRole("button", { name: "Copy" }).click();
    await page.locator(section).getByText("Copied").waitFor();
    const text = await page.evaluate(() => navigator.clipboard.readText());
    assert.ok(text.startsWith(expected), text);
    assert.equal(text, await page.locator(`${section} .line`).textContent());
  }
}));

test("where the browser refuses the clipboard the line is selected", () => visit({}, async (page) => {
  await page.evaluate(() => (navigator.clipboard.writeText = () => Promise.reject(new Error("denied"))));
  await page.locator("#readMe").getByRole("button", { name: "Copy" }).click();
  await page.locator("#readMe").getByText("Selected").waitFor();
  assert.equal(await page.evaluate(() => String(getSelection())), 'curl -sS "$base/auth/me" -H "$bearer"');
}));

test("the type of a problem leads to its paragraph, and that back to the operations", () => visit({}, async (page) => {
  const problem = page.locator("#email-taken");
  await page.waitForFunction(() => document.querySelector("#email-taken").getBoundingClientRect().top < innerHeight / 2);
  await picture(page, "docs-problem");
  await problem.getByRole("link", { name: "Register" }).click();
  await page.waitForFunction(() => document.querySelector("#register").matches(":target"));
  await page.locator("#register").getByRole("link", { name: "email-taken" }).waitFor();
}, "/docs#email-taken"));

test("the contents lead everywhere, on a phone from a folded list, and the brand leads to the page", () => visit({ viewport: { width: 390, height: 844 } }, async (page) => {
  const link = page.getByRole("navigation", { name: "Contents" }).getByRole("link", { name: "Delete a task" });
  assert.equal(await link.isVisible(), false);
  await page.getByText("Contents", { exact: true }).click();
  await link.click();
  await page.waitForFunction(() => document.querySelector("#deleteTask").matches(":target"));
  await picture(page, "docs-phone-operation");
  await page.getByRole("link", { name: "latchkey" }).click();
  await page.waitForURL(`${server.url}/`);
}));

test("without JavaScript everything but the buttons is there", () => visit({ javaScriptEnabled: false }, async (page) => {
  assert.equal(await page.getByRole("button").count(), 0);
  await page.getByRole("navigation", { name: "Contents" }).getByRole("link", { name: "Register" }).click();
  await page.locator("#register").getByText("curl -sS").waitFor();
}));

test("on paper there is the text alone, and no line is cut off", () => visit({ viewport: { width: 700, height: 1000 } }, async (page) => {
  await page.emulateMedia({ media: "print" });
  for (const name of ["Contents", "Documents"]) assert.equal(await page.locator(`[aria-label=${name}]`).isVisible(), false, name);
  assert.equal(await page.getByRole("button").count(), 0);
  const cut = await page.locator("pre").evaluateAll((blocks) => blocks.filter((block) => block.scrollWidth > block.clientWidth).length);
  assert.equal(cut, 0);
  await picture(page, "docs-paper", { clip: { x: 0, y: 0, width: 700, height: 3000 }, fullPage: true });
}));
