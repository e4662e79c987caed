// The reference in a real browser: on every screen, in both schemes, without JavaScript, on paper.

import assert from "node:assert/strict";
import { test } from "node:test";

import { accessible, open, t, useBrowser } from "./browser.js";

const SCREENS = { phone: [390, 844], tablet: [820, 1180], laptop: [1280, 800], projector: [1920, 1080], wall: [2560, 1440] };
useBrowser();

/** Opens the reference in a new browser. */
async function visit(options = {}, anchor = "") {
  await open(options);
  await t.page.goto(`/docs${anchor}`);
}

const contents = () => t.page.getByRole("navigation", { name: "Contents" });
const isTarget = (id) => t.page.waitForFunction((id) => document.getElementById(id).matches(":target"), id);

for (const [name, [width, height]] of Object.entries(SCREENS)) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the reference is accessible and fits on a ${name}, ${colorScheme}`, async () => {
      await visit({ viewport: { width, height }, colorScheme });
      await accessible(`docs-${name}-${colorScheme}`);
    });
  }
}

test("a line is copied as it stands, with the server's own address", async () => {
  await visit();
  for (const [section, expected] of [["#set-up", `base=${t.proxy.url}\n`], ["#readMe", 'curl -sS "$base/auth/me" -H "$bearer"']]) {
    await t.page.locator(section).getByRole("button", { name: "Copy" }).click();
    await t.page.locator(section).getByText("Copied").waitFor();
    const text = await t.page.evaluate(() => navigator.clipboard.readText());
    assert.ok(text.startsWith(expected), text);
    assert.equal(text, await t.page.locator(`${section} .line`).textContent());
  }
});

test("where the browser refuses the clipboard the line is selected", async () => {
  await visit();
  await t.page.evaluate(() => (navigator.clipboard.writeText = () => Promise.reject(new Error("denied"))));
  await t.page.locator("#readMe").getByRole("button", { name: "Copy" }).click();
  await t.page.locator("#readMe").getByText("Selected").waitFor();
  assert.equal(await t.page.evaluate(() => String(getSelection())), 'curl -sS "$base/auth/me" -H "$bearer"');
});

test("the type of a problem leads to its paragraph, and that back to the operations", async () => {
  await visit({}, "#email-taken");
  await isTarget("email-taken");
  await t.page.waitForFunction(() => document.querySelector("#email-taken").getBoundingClientRect().top < innerHeight / 2);
  await t.page.locator("#email-taken").getByRole("link", { name: "Register" }).click();
  await isTarget("register");
  await t.page.locator("#register").getByRole("link", { name: "email-taken" }).waitFor();
});

test("the contents lead everywhere, on a phone from a folded list, and the brand leads to the page", async () => {
  await visit({ viewport: { width: 390, height: 844 } });
  const link = contents().getByRole("link", { name: "Delete a task" });
  assert.equal(await link.isVisible(), false);
  await t.page.getByText("Contents", { exact: true }).click();
  await link.click();
  await isTarget("deleteTask");
  await accessible("docs-phone-operation");
  await t.page.getByRole("link", { name: "latchkey" }).click();
  await t.page.waitForURL(`${t.proxy.url}/`);
});

test("the colours are the reader's choice", async () => {
  await visit({ colorScheme: "light" });
  const ground = () => t.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await t.page.getByLabel("Colours").selectOption("Dark");
  assert.notEqual(await ground(), light);
  await t.page.reload();
  assert.notEqual(await ground(), light);
});

test("without JavaScript everything but the buttons is there", async () => {
  const context = await t.browser.newContext({ baseURL: t.proxy.url, javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto("/docs");
  assert.equal(await page.getByRole("button").count(), 0);
  await page.getByRole("navigation", { name: "Contents" }).getByRole("link", { name: "Register" }).click();
  await page.locator("#register").getByText("curl -sS").waitFor();
  await context.close();
});

test("on paper there is the text alone, and no line is cut off", async () => {
  await visit({ viewport: { width: 700, height: 1000 } });
  await t.page.emulateMedia({ media: "print" });
  for (const name of ["Contents", "Documents"]) assert.equal(await t.page.locator(`[aria-label=${name}]`).isVisible(), false, name);
  assert.equal(await t.page.getByRole("button").count(), 0);
  const cut = await t.page.locator("pre").evaluateAll((blocks) => blocks.filter((block) => block.scrollWidth > block.clientWidth).length);
  assert.equal(cut, 0);
});
