// What the page teaches: the map, the timeline, each exchange, the tokens, the experiments, the lines of bash, and the
// mode for a projector.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { describe, test } from "node:test";

import { accessible, addTask, exchange, experiment, focused, logIn, open, register, said, settled, submit, t, useBrowser } from "./browser.js";
import { PASSWORD, freshEmail } from "./server.js";

useBrowser({ LOGIN_FAILURE_LIMIT: "50" });

const lit = () => t.page.locator(".step.lit").getAttribute("data-step");
const numbers = () => t.page.locator("#exchanges .number").allInnerTexts();
const clipboard = () => t.page.evaluate(() => navigator.clipboard.readText());
/** Every token that went over the wire. */
const sentTokens = () => t.proxy.seen.flatMap(({ headers, body }) => `${headers.authorization ?? ""} ${body}`.match(/eyJ[\w-]+\.[\w-]+\.[\w-]+|lkr_[\w-]+/g) ?? []);

describe("the map", () => {
  test("shows two lanes and six steps, each with its sentence, before anything was sent", async () => {
    assert.deepEqual(await t.page.locator(".lanes span").allInnerTexts(), ["Browser", "Server"]);
    const names = await t.page.locator(".step .do").evaluateAll((steps) => steps.map((step) => step.lastChild.textContent));
    assert.deepEqual(names, ["Register", "Log in", "Request", "401", "Refresh", "Log out"]);
    for (const sentence of await t.page.locator(".step p").all()) assert.ok(await sentence.isVisible());
    const { y, height } = await t.page.locator("#map").boundingBox();
    assert.ok(y >= 0 && y + height < 800 && height > 200, `${y} ${height}`);
  });

  test("lights the present step and stays in view", async () => {
    await register();
    assert.equal(await t.page.locator(".step button[aria-current=step]").count(), 1);
    assert.equal(await lit(), "request");
    for (let n = 0; n < 8; n += 1) await addTask(`Task ${n}`);
    const { y } = await t.page.locator("#map").boundingBox();
    assert.ok(y >= 0 && y < 100);
    await t.page.getByRole("button", { name: "Log out", exact: true }).click();
    await said("Logged out.");
    assert.equal(await lit(), "logout");
  });

  test("is the way through: each step does what it says, and leads to its last exchange", async () => {
    const act = (step) => t.page.locator(`[data-step=${step}] .act`);
    await act("register").click();
    assert.equal(await focused(), "email");
    assert.ok(await t.page.getByLabel("Register", { exact: true }).isChecked());
    await register();
    const statuses = async (step, expected) => {
      const before = (await numbers()).length;
      await t.page.locator(`[data-step=${step}] > button`).click();
      await act(step).click();
      await t.page.waitForFunction((count) => document.querySelectorAll("#exchanges > li").length >= count, before + expected.length);
      await settled();
      const all = await t.page.locator("#exchanges .status").allInnerTexts();
      assert.deepEqual(all.slice(before).map((text) => parseInt(text, 10)), expected, step);
    };
    await statuses("request", [200]);
    await statuses("refused", [401, 200, 200]);
    await statuses("refresh", [200, 200]);
    await t.page.locator("[data-step=login] > button").click();
    assert.match(await t.page.locator("#exchanges .current .path").innerText(), /login/);
    await statuses("logout", [204]);
  });
});

describe("the timeline", () => {
  test("stands in the order of time, and the newest is in view when it comes", async () => {
    await register();
    for (let n = 0; n < 6; n += 1) await addTask(`Task ${n}`);
    await experiment("Forged signature");
    const all = await numbers();
    assert.deepEqual(all, all.map((_, index) => String(index + 1)));
    const [track, last] = await Promise.all([t.page.locator(".track").boundingBox(), t.page.locator("#exchanges > li:last-child summary").first().boundingBox()]);
    assert.ok(last.y >= track.y && last.y + last.height <= track.y + track.height, JSON.stringify([track, last]));
  });

  test("leaves logins, refreshes and refusals open, and lists folded", async () => {
    await register();
    await t.page.reload();
    await t.page.locator("#tasks[aria-busy=false]").waitFor({ state: "attached" });
    await experiment("No token");
    await experiment("Another user’s path");
    const isOpen = (name) => exchange(name).locator("details").first().evaluate((details) => details.open);
    assert.deepEqual([await isOpen("Refresh"), await isOpen("No token"), await isOpen("Another user"), await isOpen("?limit")], [true, true, true, false]);
    await t.page.getByRole("button", { name: "Log out", exact: true }).click();
    await logIn(freshEmail());
    await said("E-mail or password is wrong.");
    assert.equal(await isOpen("Log in"), true);
  });
});

describe("an exchange", () => {
  test("has method, path, status, time, one lesson for this very answer, and three tabs", async () => {
    const email = await register();
    const shown = exchange("/auth/login");
    assert.match(await shown.locator("summary").first().innerText(), /POST\s*\/auth\/login\s*200 OK\s*Log in\s*\d+ ms/);
    assert.match(await shown.locator(".lesson").innerText(), /two tokens/);
    assert.deepEqual(await shown.getByRole("tab").allInnerTexts(), ["Request", "Answer", "curl"]);
    assert.match(await shown.getByRole("tabpanel").innerText(), /"token_type": "bearer"/);
    await shown.getByRole("tab", { name: "Answer" }).focus();
    await t.page.keyboard.press("ArrowLeft");
    assert.match(await shown.getByRole("tabpanel").innerText(), new RegExp(`"email": "${email}"`));
    await t.page.keyboard.press("ArrowLeft");
    assert.match(await shown.getByRole("tabpanel").innerText(), /curl -sSi/);
    assert.equal(await shown.getByRole("tab", { name: "curl" }).getAttribute("aria-selected"), "true");
    await t.page.getByRole("button", { name: "Log out", exact: true }).click();
    await logIn(email, "wrong");
    await said("E-mail or password is wrong.");
    assert.match(await exchange("/auth/login").locator(".lesson").innerText(), /does not say which/);
  });

  test("folds its headers and marks those that matter", async () => {
    await experiment("No token");
    const shown = exchange("No token");
    const count = (await shown.locator(".headers dt").count());
    assert.equal(await shown.locator(".headers > summary").last().innerText(), `${count} headers`);
    assert.equal(await shown.locator(".keys").innerText(), 'www-authenticate\nBearer realm="latchkey"');
    assert.ok(!(await shown.getByText("x-request-id").isVisible()));
    await shown.locator(".headers > summary").last().click();
    assert.ok(await shown.getByText("x-request-id").isVisible());
    const marked = await shown.locator(".headers .key").evaluate((line) => getComputedStyle(line).backgroundColor);
    assert.notEqual(marked, "rgba(0, 0, 0, 0)");
  });

  test("colours its body and gives a long one a scroll of its own", async () => {
    await register();
    for (let n = 0; n < 12; n += 1) await addTask(`Task ${n}`);
    await t.page.reload();
    await t.page.locator(".task").nth(11).waitFor();
    await exchange("List tasks").locator("summary").first().click();
    const body = exchange("List tasks").getByRole("group", { name: "Body of the answer" });
    const [height, needed] = await body.evaluate((pre) => [pre.clientHeight, pre.scrollHeight]);
    assert.ok(height <= 320 && needed > height, `${height} ${needed}`);
    assert.equal(await body.locator(".member").first().innerText(), '"id"');
    assert.ok((await body.locator(".value").count()) > 0);
  });

  test("leads from the type of a problem to its paragraph, in a tab of its own", async () => {
    await experiment("No token");
    const link = exchange("No token").getByRole("link");
    const [docs] = await Promise.all([t.context.waitForEvent("page"), link.click()]);
    await docs.waitForURL("**/docs#unauthenticated");
    await docs.locator("#unauthenticated").waitFor();
    assert.equal((await numbers()).length, 1);
    for (const elsewhere of await t.page.locator(".elsewhere a").all()) assert.equal(await elsewhere.getAttribute("target"), "_blank");
  });

  test("never shows a password, and no token in full unless it is asked for", async () => {
    await register();
    const everything = () => t.page.evaluate(() => document.documentElement.outerHTML);
    const before = await everything();
    assert.ok(!before.includes(PASSWORD));
    assert.deepEqual(sentTokens().filter((token) => before.includes(token)), []);
    await t.page.locator("#token-strip").click();
    await t.page.getByLabel("Show tokens").check();
    const shown = (await t.page.locator("#token-whole").innerText()).replace(/\s/g, "");
    assert.ok(sentTokens().includes(shown));
    assert.ok(!(await everything()).includes(PASSWORD));
    await t.page.getByLabel("Show tokens").uncheck();
    assert.ok(!(await everything()).includes(shown));
  });
});

describe("the token", () => {
  test("is always in view: three coloured parts, and a countdown", async () => {
    await register();
    const parts = t.page.locator("#token-parts span");
    const colours = await parts.evaluateAll((spans) => spans.map((span) => getComputedStyle(span).color));
    assert.equal(new Set(colours).size, 3);
    const left = () => t.page.locator("#token-life").innerText();
    const now = await left();
    assert.match(now, /^1[45] min \d\d s$/);
    await t.page.waitForFunction((then) => document.querySelector("#token-life").textContent !== then, now);
    await t.page.locator("#token-strip").click();
    for (const claim of ["alg", "typ", "kid", "iss", "aud", "sub", "sid", "iat", "exp"]) {
      const row = t.page.locator("#token-panel tr", { has: t.page.getByRole("rowheader", { name: claim, exact: true }) });
      assert.ok((await row.locator("td").first().innerText()).length > 1 && (await row.locator("td").last().innerText()).length > 5, claim);
    }
  });

  test("is revoked by a logout in every tab, and nothing of it is left", async () => {
    await register();
    await addTask("Buy milk");
    const [other] = await Promise.all([t.context.waitForEvent("page"), t.page.evaluate(() => void window.open("/"))]);
    await other.getByRole("checkbox", { name: "Buy milk" }).waitFor();
    await t.page.getByRole("button", { name: "Log out", exact: true }).click();
    await said("Logged out.");
    await other.locator("#guest").getByText("Logged out in another tab.").waitFor();
    for (const tab of [t.page, other]) {
      assert.equal(await tab.locator("#token-life").innerText(), "Revoked");
      assert.equal(await tab.locator("#token-parts").innerText(), "");
      await tab.locator("#token-strip").click();
      await tab.getByLabel("Show tokens").check();
      const everything = await tab.evaluate(() => document.documentElement.outerHTML + JSON.stringify({ ...sessionStorage, ...localStorage }));
      assert.deepEqual(sentTokens().filter((token) => everything.includes(token)), []);
      assert.deepEqual(new Set(await tab.locator("[data-claim]").allInnerTexts()), new Set(["–"]));
    }
  });
});

describe("the experiments", () => {
  const sequences = [
    ["No token", [401]], ["Forged signature", [401]], ["Altered claim", [401]], ["alg: none", [401]],
    ["Another user’s path", [403]], ["Expired token", [401, 200, 200]], ["The previous token again", [200, 200, 200]],
  ];
  test("are real requests, which carry their names, and their lessons are their own", async () => {
    await register();
    const lessons = [];
    for (const [name, statuses] of sequences) {
      const added = await experiment(name);
      assert.deepEqual(added.map(({ status }) => status), statuses, name);
      for (const { tags } of added) assert.deepEqual(tags, [name]);
      lessons.push(added.at(-1).lesson);
    }
    assert.equal(new Set(lessons).size, lessons.length);
    assert.match(lessons.at(-1), /same successor/);
    await addTask("Still logged in");
  });

  test("mark the bytes that they altered", async () => {
    await register();
    for (const [name, part] of [["Forged signature", "signature"], ["Altered claim", "claims"], ["Expired token", "claims"], ["alg: none", "header"]]) {
      await experiment(name);
      const request = t.page.locator("#exchanges > li", { hasText: name }).filter({ hasText: "Altered" }).last();
      const mark = request.locator(`.keys .${part} mark`);
      const bytes = await mark.innerText();
      const sent = t.proxy.seen.filter(({ path, headers }) => path === "/auth/me" && headers.authorization?.includes(bytes));
      assert.ok(sent.length > 0 && bytes.length < 60, `${name}: ${bytes}`);
    }
    assert.deepEqual(await exchange("alg: none").locator(".keys .signature mark").allInnerTexts(), ["nothing"]);
  });

  for (const [name, statuses, lesson] of [
    ["Replay of a spent token", [200, 200, 200, 200, 401, 401, 401], /two parties hold it/],
    ["Stolen refresh token", [200, 200, 200, 401, 401], /thief is out/],
    ["Token after logout", [204, 401], /whether the session is still valid/],
  ]) {
    test(`${name}: the session ends, and the way back is said`, async () => {
      await register();
      const added = await experiment(name);
      assert.deepEqual(added.map(({ status }) => status), statuses);
      for (const { tags } of added) assert.equal(tags.at(-1), name);
      assert.ok(added.some((each) => lesson.test(each.lesson)), JSON.stringify(added));
      assert.equal(await t.page.locator("#token-life").innerText(), "Revoked");
      await t.page.locator("#guest .message p").waitFor();
      const shown = await t.page.evaluate(() => document.documentElement.outerHTML);
      assert.deepEqual(sentTokens().filter((token) => shown.includes(token)), []);
      await t.page.locator("#password").fill(PASSWORD);
      await submit();
      await t.page.locator("#member").waitFor();
    });
  }

  test("wait for a login where they need one", async () => {
    const button = t.page.locator("[data-experiment=forged]");
    assert.equal(await button.getAttribute("aria-disabled"), "true");
    await button.dispatchEvent("click");
    assert.equal((await numbers()).length, 0);
    await register();
    assert.equal(await button.getAttribute("aria-disabled"), "false");
  });
});

describe("the shell", () => {
  const NASTY = `it's "quoted" $HOME \`id\` \\n \\ & ! * ü€😀`;

  /** Runs a script in bash, as pasted, with a password to be asked for; gives what it prints. */
  async function bash(script, password, variables = {}) {
    const child = spawn("bash", ["-c", script], { env: { ...process.env, ...variables } });
    let [output, errors] = ["", ""];
    child.stdout.on("data", (data) => (output += data));
    child.stderr.on("data", (data) => (errors += data));
    child.stdin.end(`${password}\n`);
    await new Promise((resolve) => child.on("close", resolve));
    assert.equal(errors, "");
    return output;
  }

  /** A session with an answer of every kind; the e-mail. */
  async function everyKind() {
    const email = await register(freshEmail(), NASTY);
    await addTask(`It’s "quoted" $HOME \`x\` \\ ! 'single'`);
    await addTask("Another");
    await t.page.getByRole("checkbox", { name: "Another" }).click();
    await t.page.locator(".task.done").waitFor();
    await t.page.getByRole("button", { name: "Delete Another" }).click();
    await t.page.getByRole("button", { name: "Undo" }).click();
    await t.page.locator(".task.ok.done").waitFor();
    for (const name of ["No token", "Forged signature", "Altered claim", "alg: none", "Another user’s path", "Expired token", "The previous token again"]) await experiment(name);
    await t.page.getByText("Account", { exact: true }).click();
    for (const [current, next] of [["wrong", NASTY], [NASTY, "password"], [NASTY, NASTY]]) {
      await t.page.getByLabel("Current password").fill(current);
      await t.page.getByLabel("New password").fill(next);
      await t.page.getByRole("button", { name: "Change it" }).click();
      await settled();
    }
    for (const name of ["Replay of a spent token", "Stolen refresh token", "Token after logout"]) {
      await experiment(name);
      await logIn(email, "wrong");
      await said("E-mail or password is wrong.");
      await logIn(email, NASTY);
      await t.page.locator("#tasks[aria-busy=false]").waitFor();
      await settled();
    }
    await t.page.getByRole("button", { name: "Log out everywhere" }).click();
    await said("Logged out everywhere.");
    await t.page.locator("#sign").getByText("Register", { exact: true }).click();
    await logIn(email, NASTY);
    await said("This e-mail already has an account.");
    await t.page.locator("#sign").getByText("Log in", { exact: true }).click();
    await logIn(email, NASTY);
    await t.page.locator("#tasks[aria-busy=false]").waitFor();
    await settled();
    return email;
  }

  test("each copied line gets the status on the page, after the setup, with any password", async () => {
    await everyKind();
    await t.page.getByRole("button", { name: "Set up your shell" }).click();
    await t.page.locator("#shell").getByRole("button", { name: "Copy" }).click();
    const setup = await clipboard();
    for (const part of [/^base='http/m, /^email='user/m, / password$/m, /^token=\$\(/m]) assert.match(setup, part);
    await t.page.locator("#shell").getByRole("button", { name: "Close" }).click();
    const lines = await t.page.locator("#exchanges > li").evaluateAll((rows) => rows.map((row) => ({
      status: parseInt(row.querySelector(".status").textContent, 10),
      name: row.querySelector("summary").textContent,
      line: row.querySelector("[aria-label='The same in bash']").textContent,
    })));
    assert.ok(lines.length > 40 && lines.length < 100, `${lines.length}`);
    assert.ok(!lines.some(({ line }) => line.includes(NASTY) || sentTokens().some((token) => line.includes(token))));
    const marked = lines.map(({ line }, index) => `printf '\\n=== ${index} '; ${line}`).join("\n");
    const output = await bash(`${setup}\n${marked}`, NASTY);
    const statuses = new Map([...output.matchAll(/=== (\d+) HTTP\/1\.1 (\d+)/g)].map(([, index, status]) => [Number(index), Number(status)]));
    const others = lines.map((each, index) => ({ ...each, inBash: statuses.get(index) })).filter(({ status, inBash }) => status !== inBash);
    assert.deepEqual(others, []);
  });

  test("the whole session runs as one script, copied on plain http, where there is no clipboard API", async () => {
    const { port } = new URL(t.proxy.url);
    await open({ origin: `http://latchkey.test:${port}` });
    assert.equal(await t.page.evaluate(() => navigator.clipboard), undefined);
    await register();
    await addTask("Buy milk");
    await experiment("Expired token");
    await experiment("Token after logout");
    const expected = (await t.page.locator("#exchanges .status").allInnerTexts()).map((text) => parseInt(text, 10));
    await t.page.getByRole("button", { name: "Copy the whole session" }).click();
    await t.page.getByRole("button", { name: "Copied" }).waitFor();
    await t.page.evaluate(() => document.body.append(Object.assign(document.createElement("textarea"), { id: "paste" })));
    await t.page.locator("#paste").focus();
    await t.page.keyboard.press("Control+V");
    const script = await t.page.locator("#paste").inputValue();
    const output = await bash(`curl() { command curl --resolve latchkey.test:${port}:127.0.0.1 "$@"; }\n${script}`, PASSWORD);
    assert.deepEqual([...output.matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, status]) => Number(status)), expected, output);
  });

  test("a password with line breaks and control characters logs in, too", async () => {
    const [email, password] = [freshEmail(), "two\nlines\r\tand\u0001\u001f\u007f more \\\n"];
    const made = await fetch(`${t.server.url}/auth/register`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ email, password }) });
    assert.equal(made.status, 201);
    await t.page.getByLabel("E-mail").fill(email);
    await t.page.getByRole("button", { name: "Set up your shell" }).click();
    const setup = await t.page.locator("#setup").evaluate((pre) => pre.textContent);
    assert.match(await bash(setup, "", { password }), /^Logged in as user/);
  });
});

describe("for a projector", () => {
  test("present mode, by button and by key: one exchange over the full width, large, moved by arrow keys", async () => {
    await register();
    await experiment("Forged signature");
    await t.page.keyboard.press("p");
    const shown = t.page.locator("#exchanges > li:visible");
    assert.equal(await shown.count(), 1);
    assert.ok((await shown.boundingBox()).width > 1200);
    const sizes = await t.page.locator("#exchanges .current :is(.line, .fields, .method, .path)").evaluateAll((all) => all.map((one) => parseFloat(getComputedStyle(one).fontSize)));
    assert.ok(Math.min(...sizes) >= 20, String(sizes));
    assert.ok(await t.page.locator("#map").isVisible());
    const number = () => shown.locator(".number").innerText();
    const last = Number(await number());
    for (const [key, expected] of [["ArrowLeft", last - 1], ["ArrowLeft", last - 2], ["ArrowRight", last - 1], ["PageDown", last], ["ArrowRight", last]]) {
      await t.page.keyboard.press(key);
      assert.equal(Number(await number()), expected, key);
    }
    await t.page.locator("[data-step=request] > button").click();
    await t.page.locator("[data-step=request] .act").click();
    await t.page.locator("#exchanges .current", { hasText: "Who am I?" }).waitFor();
    await settled();
    assert.equal(Number(await number()), last + 1);
    await accessible("present");
    await t.page.keyboard.press("Escape");
    assert.ok(await t.page.locator("#member").isVisible());
    await t.page.locator("#present").click();
    assert.ok(!(await t.page.locator("#member").isVisible()));
    await t.page.keyboard.press("P");
    assert.ok(await t.page.locator("#member").isVisible());
    await t.page.getByLabel("New task").fill("");
    await t.page.keyboard.type("Pack up");
    assert.equal(await t.page.getByLabel("New task").inputValue(), "Pack up");
  });

  test("the colours are light, dark, or the system's, and are kept", async () => {
    const paper = () => t.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper();
    await t.page.getByLabel("Colours").selectOption("dark");
    const dark = await paper();
    assert.notEqual(dark, light);
    await t.page.reload();
    assert.equal(await paper(), dark);
    await t.page.getByLabel("Colours").selectOption("light");
    await t.page.emulateMedia({ colorScheme: "dark" });
    assert.equal(await paper(), light);
    await t.page.getByLabel("Colours").selectOption("");
    assert.equal(await paper(), dark);
  });

  test("the type is the system's sans, code is monospaced, and fields are white", async () => {
    const style = (selector, name) => t.page.locator(selector).first().evaluate((element, property) => getComputedStyle(element)[property], name);
    for (const selector of ["body", "h1", "h2", "button", "#email"]) assert.match(await style(selector, "fontFamily"), /^system-ui/, selector);
    await experiment("No token");
    for (const selector of ["pre", ".path", ".fields"]) assert.match(await style(selector, "fontFamily"), /^ui-monospace/, selector);
    assert.equal(await style("#email", "backgroundColor"), "rgb(255, 255, 255)");
  });
});
