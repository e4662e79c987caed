// The shipped program, one request to it, and one line for each check.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";

const environment = {
  PATH: process.env.PATH,
  HOME: process.env.HOME,
  DATABASE_URL: process.env.LATCHKEY_TEST_DATABASE_URL,
  JWT_SECRET: randomBytes(32).toString("base64"),
  LISTEN: "127.0.0.1:0",
};
export const outcome = { failures: 0 };

export function check(what, seen, expected) {
  const isRight = JSON.stringify(seen) === JSON.stringify(expected);
  outcome.failures += isRight ? 0 : 1;
  console.log(`${isRight ? "ok  " : "FAIL"} ${what}: ${JSON.stringify(seen)}${isRight ? "" : `, not ${JSON.stringify(expected)}`}`);
}

export async function serve(variables) {
  const child = spawn(process.env.LATCHKEY, ["serve"], {
    env: { ...environment, ...variables },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const server = { log: "" };
  child.stderr.on("data", (piece) => {
    server.log += piece;
    process.stderr.write(piece);
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const line = await Promise.race([new Promise((resolve) => createInterface(child.stdout).once("line", resolve)), ended]);
  server.base = String(line).replace("listening on ", "");
  if (!server.base.startsWith("http")) throw new Error("the server did not start");
  server.stop = () => (child.kill("SIGTERM"), ended);
  return server;
}

export async function ask({ base }, bearer, method, path, body) {
  const headers = { Authorization: `Bearer ${bearer}`, ...(body && { "Content-Type": "application/json" }) };
  const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, json: text ? JSON.parse(text) : undefined, id: answer.headers.get("X-Request-Id") };
}

export const status = async (...request) => (await ask(...request)).status;

/** Status and reason of a refused token: the reason is the log's, up to the address. */
export async function refusal(server, token) {
  const { status, id } = await ask(server, token, "GET", "/auth/me");
  const pattern = new RegExp(`event=token outcome=refused reason=(.*?) address=.*request_id=${id}`);
  for (let tries = 0; tries < 100; tries += 1) {
    const found = pattern.exec(server.log);
    if (found) return [status, found[1]];
    await delay(20);
  }
  return [status, "nothing in the log"];
}

/** A command: its exit code and standard output. Asynchronous, so that an issuer in this process can answer it. */
export async function latchkey(command, variables) {
  const child = spawn(process.env.LATCHKEY, command, {
    env: { ...environment, ...variables },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let stdout = "";
  child.stdout.on("data", (piece) => (stdout += piece));
  const [code] = await once(child, "close");
  return { code, stdout };
}

export const operator = async (...command) => (await latchkey(["user", ...command])).code;
