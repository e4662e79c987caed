// Drives the shipped program with the tokens of a real Better Auth: those that are access tokens make tasks, all others
// are refused. Prints one line a check and ends with 1 if one fails. Started by run.sh.

import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { SignJWT, decodeJwt, decodeProtectedHeader } from "jose";
import { signOut, signUp, start, token, tokenOfSession } from "./issuer.mjs";

const secret = randomBytes(32).toString("base64");
const environment = {
  PATH: process.env.PATH,
  HOME: process.env.HOME,
  DATABASE_URL: process.env.LATCHKEY_TEST_DATABASE_URL,
  JWT_SECRET: randomBytes(32).toString("base64"),
  LISTEN: "127.0.0.1:0",
};
let failures = 0;

function check(what, seen, expected) {
  const isRight = JSON.stringify(seen) === JSON.stringify(expected);
  failures += isRight ? 0 : 1;
  console.log(`${isRight ? "ok  " : "FAIL"} ${what}: ${JSON.stringify(seen)}${isRight ? "" : `, not ${JSON.stringify(expected)}`}`);
}

async function serve(variables) {
  const child = spawn(process.env.LATCHKEY, ["serve"], {
    env: { ...environment, ...variables },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  const line = await Promise.race([new Promise((resolve) => createInterface(child.stdout).once("line", resolve)), ended]);
  const base = String(line).replace("listening on ", "");
  if (!base.startsWith("http")) throw new Error("the server did not start");
  return { base, stop: () => (child.kill("SIGTERM"), ended) };
}

async function ask({ base }, bearer, method, path, body) {
  const headers = { Authorization: `Bearer ${bearer}`, ...(body && { "Content-Type": "application/json" }) };
  const answer = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, json: text ? JSON.parse(text) : undefined };
}

const status = async (...request) => (await ask(...request)).status;
const operator = (...command) => spawnSync(process.env.LATCHKEY, ["user", ...command], { env: environment }).status;

async function accessTokens(alg, plugin) {
  const issuer = await start({ secret, plugin });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin });
  const [ada, bob] = [await signUp(issuer, "ada"), await signUp(issuer, "bob")];
  const [hers, his] = [await token(issuer, ada), await token(issuer, bob)];
  check(`${alg}: Better Auth issues`, decodeProtectedHeader(hers).alg, alg);
  const me = await ask(server, hers, "GET", "/auth/me");
  check(`${alg}: me`, me.json, { id: ada.id, email: null, is_active: true, created_at: null });
  const made = await ask(server, hers, "POST", "/api/me/tasks", { title: "Buy milk" });
  check(`${alg}: first task`, [made.status, made.json.user_id], [201, ada.id]);
  check(`${alg}: her list`, (await ask(server, hers, "GET", `/api/${ada.id}/tasks`)).json.length, 1);
  check(`${alg}: his list`, (await ask(server, his, "GET", "/api/me/tasks")).json, []);
  check(`${alg}: her list with his token`, await status(server, his, "GET", `/api/${ada.id}/tasks`), 403);
  check(`${alg}: her task with his token`, await status(server, his, "GET", `/api/me/tasks/${made.json.id}`), 404);
  check(`${alg}: logout here`, await status(server, hers, "POST", "/auth/logout"), 403);
  check(`${alg}: token of getSession`, await status(server, await tokenOfSession(issuer, ada), "GET", "/auth/me"), 200);
  check(`${alg}: a changed token`, await status(server, hers.replace(/\.[^.]*\./, `.${his.split(".")[1]}.`), "GET", "/auth/me"), 401);
  await signOut(issuer, ada);
  check(`${alg}: after sign-out there`, await status(server, hers, "GET", "/api/me/tasks"), 200);
  check(`${alg}: deactivation here`, operator("deactivate", `id:${ada.id}`), 0);
  check(`${alg}: after it`, await status(server, hers, "GET", "/api/me/tasks"), 401);
  check(`${alg}: he goes on`, await status(server, his, "POST", "/api/me/tasks", { title: "Buy tea" }), 201);

  const stranger = await start({ secret, plugin });
  const foreign = await token(stranger, await signUp(stranger, "eve"));
  check(`${alg}: of another Better Auth with the same secret`, await status(server, foreign, "GET", "/auth/me"), 401);
  stranger.stop();
  issuer.stop();
  check(`${alg}: the issuer is away`, await status(server, his, "GET", "/auth/me"), 200);
  check(`${alg}: the server ends with`, await server.stop(), 0);
}

/** None of these is an access token, although user, secret and keys are the right ones. */
async function otherTokens(name, plugin, cookieCache) {
  const issuer = await start({ secret, plugin, cookieCache });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin, BETTER_AUTH_SECRET: secret });
  const user = await signUp(issuer, "ada");
  check(`${name}: its access token`, await status(server, await token(issuer, user), "GET", "/auth/me"), 200);
  check(`${name}: session token`, await status(server, user.cookies.session_token, "GET", "/auth/me"), 401);
  const [mailed] = issuer.mailed;
  check(`${name}: mailed link names`, decodeJwt(mailed).email, "ada@example.org");
  check(`${name}: mailed link`, await status(server, mailed, "GET", "/auth/me"), 401);
  if (cookieCache) {
    const cached = user.cookies.session_data;
    check(`${name}: cookie has`, cached.split(".").length, { compact: 1, jwt: 3, jwe: 5 }[cookieCache.strategy]);
    check(`${name}: cookie`, await status(server, cached, "GET", "/auth/me"), 401);
  }
  issuer.stop();
  await server.stop();
}

async function refusedAlgorithms() {
  const issuer = await start({ secret, plugin: { jwks: { keyPairConfig: { alg: "ES512" } } } });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin });
  const es512 = await token(issuer, await signUp(issuer, "ada"));
  check("ES512 is not taken", [decodeProtectedHeader(es512).alg, await status(server, es512, "GET", "/auth/me")], ["ES512", 401]);
  issuer.stop();
  await server.stop();
}

/** The route of the README, with the secret that both sides have. */
async function sharedSecret() {
  const server = await serve({ BETTER_AUTH_SECRET: secret });
  const sign = (jwt, key) => jwt.setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(key));
  const jwt = () => new SignJWT().setSubject("Zq3xkJ0Vb8nD5TfWmR7yLcA1sGhE2uPo").setIssuedAt().setExpirationTime("15m");
  check("shared secret: a task", await status(server, await sign(jwt(), secret), "POST", "/api/me/tasks", { title: "a" }), 201);
  const other = randomBytes(32).toString("base64");
  check("shared secret: another one", await status(server, await sign(jwt(), other), "GET", "/auth/me"), 401);
  const nobody = new SignJWT({ userId: "a", email: "a@b.c" }).setExpirationTime("15m");
  check("shared secret: without sub", await status(server, await sign(nobody, secret), "GET", "/auth/me"), 401);
  await server.stop();
}

await accessTokens("EdDSA", undefined);
for (const alg of ["ES256", "RS256", "PS256"]) await accessTokens(alg, { jwks: { keyPairConfig: { alg } } });
await refusedAlgorithms();
await otherTokens("no cache", undefined, undefined);
for (const strategy of ["compact", "jwt", "jwe"]) await otherTokens(`cache ${strategy}`, undefined, { strategy });
await otherTokens("cache jwt by published key", { sessionCookieCache: true }, { strategy: "jwt" });
await sharedSecret();
console.log(failures ? `better-auth: ${failures} failed` : "better-auth: all as expected");
process.exit(failures ? 1 : 0);
