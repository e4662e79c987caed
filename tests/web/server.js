// What the tests of the browser side stand on: the shipped program on the cluster that `tests/cluster.sh` brings, and
// a proxy in front of it that can lose, refuse and count.

import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import { createInterface } from "node:readline";

export const PASSWORD = "correct horse battery staple 7";
const TARGET = process.env.CARGO_TARGET_DIR ?? new URL("../../target", import.meta.url).pathname;
const PROGRAM = `${TARGET}/debug/latchkey`;
const SECRET = crypto.getRandomValues(new Uint8Array(32)).reduce((text, byte) => text + byte.toString(16), "s");

let users = 0;
/** An e-mail that no other call gives. */
export const freshEmail = () => `user${(users += 1)}.${process.pid}@example.org`;

/** Starts the program; resolves once it listens. `stop` resolves with its exit code. */
export async function startServer(variables = {}) {
  const child = spawn(PROGRAM, ["serve"], {
    env: {
      DATABASE_URL: process.env.LATCHKEY_TEST_DATABASE_URL,
      JWT_SECRET: SECRET,
      LISTEN: "127.0.0.1:0",
      LATCHKEY_ENV: "test",
      BCRYPT_COST: "4",
      ADDRESS_LIMIT: "0",
      RUST_LOG: "warn",
      ...variables,
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit").then(([code]) => code);
  const line = await Promise.race([
    once(createInterface({ input: child.stdout }), "line").then(([first]) => first),
    ended.then((code) => Promise.reject(new Error(`the server ended with ${code}`))),
  ]);
  const stop = () => (child.kill("SIGTERM"), ended);
  process.once("exit", () => child.kill("SIGKILL"));
  return { url: line.replace("listening on ", ""), stop };
}

/**
 * A proxy to the server. `seen` lists every request; a rule of `rules` sees each first and may return what becomes of
 * it: `{ status, headers, body }` answers here, `"lose"` lets the server act and drops its answer, `"drop"` does not
 * even ask it, `{ answer }` changes the server's answer or holds it back.
 */
export async function startProxy(target) {
  const proxy = { seen: [], rules: [] };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const { method, url, headers } = request;
    const seen = { method, path: url, headers, body: body.toString() };
    proxy.seen.push(seen);
    const fate = proxy.rules.map((rule) => rule(seen)).find(Boolean);
    if (fate === "drop") return request.socket.destroy();
    if (fate?.status) return response.writeHead(fate.status, fate.headers ?? {}).end(fate.body ?? "");
    const answer = await forward(target, seen, body);
    if (fate === "lose") return request.socket.destroy();
    await fate?.answer?.(answer);
    response.writeHead(answer.status, answer.headers).end(answer.body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  proxy.url = `http://127.0.0.1:${server.address().port}`;
  proxy.count = (method, path) => proxy.seen.filter((r) => r.method === method && r.path.split("?")[0] === path).length;
  proxy.stop = () => (server.closeAllConnections(), server.close());
  return proxy;
}

function forward(target, { method, path, headers }, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(target + path, { method, headers: { ...headers, connection: "close" } });
    request.on("error", reject).on("response", async (response) => {
      const chunks = [];
      for await (const chunk of response) chunks.push(chunk);
      const { connection: _, ...kept } = response.headers;
      resolve({ status: response.statusCode, headers: kept, body: Buffer.concat(chunks) });
    });
    request.end(body);
  });
}

/** A rule that applies to the first `times` requests of this method and path. */
export function first(times, method, path, fate) {
  let left = times;
  return (request) => {
    if (request.method !== method || request.path.split("?")[0] !== path || left === 0) return undefined;
    left -= 1;
    return fate;
  };
}
