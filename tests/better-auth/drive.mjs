// Drives the shipped program with the tokens of a real Better Auth: those that are access tokens create tasks, all others
// are refused, each for the reason that the manual gives. Prints one line for each check and ends with 1 if one fails.

import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { apiKey } from "@better-auth/api-key";
import { oauthProvider } from "@better-auth/oauth-provider";
import { SignJWT, decodeJwt, decodeProtectedHeader } from "jose";
import { oauthTokens, signOut, signUp, start, token, tokenOfSession } from "./issuer.mjs";
import { ask, check, operator, outcome, refusal, serve, status } from "./server.mjs";
import { walk } from "./walk.mjs";

const secret = randomBytes(32).toString("base64");

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
  const forged = hers.replace(/\.[^.]*\./, `.${his.split(".")[1]}.`);
  check(`${alg}: a forged token`, await refusal(server, forged), [401, "bad_signature"]);
  await signOut(issuer, ada);
  check(`${alg}: after sign-out there`, await status(server, hers, "GET", "/api/me/tasks"), 200);
  check(`${alg}: deactivation here`, await operator("deactivate", `id:${ada.id}`), 0);
  check(`${alg}: after it`, await status(server, hers, "GET", "/api/me/tasks"), 401);
  check(`${alg}: he goes on`, await status(server, his, "POST", "/api/me/tasks", { title: "Buy tea" }), 201);

  const stranger = await start({ secret, plugin });
  const foreign = await token(stranger, await signUp(stranger, "eve"));
  const refused = (await refusal(server, foreign))[1];
  check(`${alg}: of another Better Auth with the same secret`, ["unknown_key", "key_may_be_new"].includes(refused), true);
  stranger.stop();
  issuer.stop();
  check(`${alg}: the issuer is away`, await status(server, his, "GET", "/auth/me"), 200);
  check(`${alg}: the server ends with`, await server.stop(), 0);
}

/** None of these is an access token, although user, secret and keys are the right ones. */
async function otherTokens(name, plugin, cookieCache, cookieReason) {
  const issuer = await start({ secret, plugin, cookieCache });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin, BETTER_AUTH_SECRET: secret });
  const user = await signUp(issuer, "ada");
  check(`${name}: its access token`, await status(server, await token(issuer, user), "GET", "/auth/me"), 200);
  check(`${name}: session token`, await refusal(server, user.cookies.session_token), [401, "malformed"]);
  const [mailed] = issuer.mailed;
  check(`${name}: mailed link names`, decodeJwt(mailed).email, "ada@example.org");
  check(`${name}: mailed link`, await refusal(server, mailed), [401, "bad_claims"]);
  if (cookieCache) {
    const cached = user.cookies.session_data;
    check(`${name}: cookie has`, cached.split(".").length, { compact: 1, jwt: 3, jwe: 5 }[cookieCache.strategy]);
    check(`${name}: cookie`, await refusal(server, cached), [401, cookieReason]);
  }
  issuer.stop();
  await server.stop();
}

/** What Better Auth's OAuth provider and API keys give, for the audience that latchkey expects. */
async function oauthAndApiKeys() {
  const provider = (origin) => oauthProvider({
    loginPage: "/login",
    consentPage: "/consent",
    scopes: ["openid"],
    resources: [origin],
    enforcePerClientResources: false,
    silenceWarnings: { oauthAuthServerConfig: true, openidConfig: true },
  });
  const issuer = await start({ secret, plugins: (origin) => [provider(origin), apiKey()] });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin, BETTER_AUTH_SECRET: secret });
  const user = await signUp(issuer, "ada");
  check("OAuth: the access token beside it", await status(server, await token(issuer, user), "GET", "/auth/me"), 200);
  const { access_token, id_token } = await oauthTokens(issuer, user);
  const [access, id] = [decodeJwt(access_token), decodeJwt(id_token)];
  check("OAuth: both are the user's", [access.sub, id.sub], [user.id, user.id]);
  check("OAuth: audience", [access.aud.includes(issuer.origin), id.aud === access.client_id], [true, true]);
  check("OAuth: access token", await refusal(server, access_token), [401, "wrong_type"]);
  const mismatch = `expected=${issuer.origin} seen="\\"${issuer.base}\\""`;
  check("OAuth: ID token", await refusal(server, id_token), [401, `wrong_issuer ${mismatch}`]);
  const headers = new Headers({ Cookie: user.header, Origin: issuer.origin });
  const { key } = await issuer.auth.api.createApiKey({ body: {}, headers });
  check("API key", await refusal(server, key), [401, "malformed"]);
  await server.stop();
  // Even where the ID token's issuer is the configured one, its audience is the OAuth client.
  const sameIssuer = await serve({ BETTER_AUTH_URL: issuer.origin, BETTER_AUTH_ISSUER: issuer.base });
  const [code, reason] = await refusal(sameIssuer, id_token);
  check("OAuth: ID token of the same issuer", [code, reason.split(" ")[0]], [401, "wrong_audience"]);
  await sameIssuer.stop();
  issuer.stop();
}

async function unsupportedAlgorithm() {
  const issuer = await start({ secret, plugin: { jwks: { keyPairConfig: { alg: "ES512" } } } });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin });
  const es512 = await token(issuer, await signUp(issuer, "ada"));
  check("ES512", decodeProtectedHeader(es512).alg, "ES512");
  check("ES512 is refused", await refusal(server, es512), [401, "unsupported_algorithm"]);
  issuer.stop();
  await server.stop();
}

/** A Better Auth that is set up otherwise: refused under the plain setting, accepted under the manual's. */
async function elsewhere(what, setup, plain, settings, expected) {
  const issuer = await start({ secret, ...setup });
  const user = await signUp(issuer, "ada");
  const issued = await token(issuer, user);
  const refusing = await serve(plain(issuer));
  const [code, reason] = await refusal(refusing, issued);
  check(`${what}: the plain setting`, [code, reason], expected(issuer, decodeJwt(issued)));
  await refusing.stop();
  const accepting = await serve(settings(issuer, decodeJwt(issued)));
  check(`${what}: the manual's setting`, (await ask(accepting, issued, "GET", "/auth/me")).json?.id, user.id);
  await accepting.stop();
  issuer.stop();
}

async function otherSetups() {
  const plain = ({ origin }) => ({ BETTER_AUTH_URL: origin });
  const noKeySet = () => [503, "no_key_set"];
  const jwks = (path) => ({ origin }) => ({ BETTER_AUTH_URL: origin, BETTER_AUTH_JWKS_URL: origin + path });
  const quoted = (text) => `"\\"${text}\\""`;
  await elsewhere("basePath", { path: "/login", options: () => ({ basePath: "/login" }) }, plain, jwks("/login/jwks"), noKeySet);
  const inPath = { path: "/app/auth", options: (origin) => ({ baseURL: `${origin}/app/auth` }) };
  await elsewhere("path in baseURL", inPath, plain, jwks("/app/auth/jwks"), noKeySet);
  const jwksPath = { plugin: { jwks: { jwksPath: "/keys.json" } } };
  await elsewhere("jwksPath", jwksPath, plain, jwks("/api/auth/keys.json"), noKeySet);
  const byAddress = ({ origin }) => ({ BETTER_AUTH_URL: origin.replace("localhost", "127.0.0.1") });
  const isLocalhost = ({ origin }) => {
    const expected = origin.replace("localhost", "127.0.0.1");
    return [401, `wrong_issuer expected=${expected} seen=${quoted(origin)}`];
  };
  // On both addresses, so that only the name differs.
  await elsewhere("localhost", { host: "localhost" }, (issuer) => ({
    ...byAddress(issuer), BETTER_AUTH_JWKS_URL: `${issuer.base}/jwks`,
  }), plain, isLocalhost);
  await elsewhere("issuer and audience", { plugin: { jwt: { issuer: "https://auth.example", audience: "tasks" } } }, plain,
    ({ origin }) => ({ BETTER_AUTH_URL: origin, BETTER_AUTH_ISSUER: "https://auth.example", BETTER_AUTH_AUDIENCE: "tasks" }),
    ({ origin }) => [401, `wrong_issuer expected=${origin} seen=${quoted("https://auth.example")}`]);
  const dynamic = (origin) => ({ baseURL: { allowedHosts: [new URL(origin).host], protocol: "http" } });
  await elsewhere("dynamic base URL", { options: dynamic }, ({ origin }) => ({
    BETTER_AUTH_URL: "https://app.example", BETTER_AUTH_JWKS_URL: `${origin}/api/auth/jwks`,
  }), plain, ({ origin }) => [401, `wrong_issuer expected=https://app.example seen=${quoted(origin)}`]);
}

/** A new key: never 401, and accepted after the next fetch. */
async function rotation() {
  const issuer = await start({ secret, plugin: { jwks: { rotationInterval: 3, gracePeriod: 3600 } } });
  const server = await serve({ BETTER_AUTH_URL: issuer.origin });
  const user = await signUp(issuer, "ada");
  const old = await token(issuer, user);
  check("rotation: the first key", await status(server, old, "GET", "/auth/me"), 200);
  await delay(4_000);
  const next = await token(issuer, user);
  check("rotation: another key", decodeProtectedHeader(next).kid !== decodeProtectedHeader(old).kid, true);
  const seen = new Set();
  for (let tries = 0; tries < 60 && !seen.has(200); tries += 1) {
    seen.add(await status(server, next, "GET", "/auth/me"));
    await delay(250);
  }
  check("rotation: the new key", [seen.has(200), seen.has(401)], [true, false]);
  check("rotation: the old key within its grace period", await status(server, old, "GET", "/auth/me"), 200);
  await server.stop();
  issuer.stop();
}

/** Tokens that a server signs with the secret that both sides have. */
async function sharedSecret() {
  const server = await serve({ BETTER_AUTH_SECRET: secret });
  const sign = (jwt, key) => jwt.setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(key));
  const jwt = () => new SignJWT().setSubject("Zq3xkJ0Vb8nD5TfWmR7yLcA1sGhE2uPo").setIssuedAt().setExpirationTime("15m");
  check("shared secret: a task", await status(server, await sign(jwt(), secret), "POST", "/api/me/tasks", { title: "a" }), 201);
  const other = randomBytes(32).toString("base64");
  check("shared secret: forged with another", await refusal(server, await sign(jwt(), other)), [401, "bad_signature"]);
  const nobody = new SignJWT({ userId: "a", email: "a@b.c" }).setExpirationTime("15m");
  check("shared secret: without sub", await refusal(server, await sign(nobody, secret)), [401, "bad_claims"]);
  await server.stop();
}

await accessTokens("EdDSA", undefined);
for (const alg of ["ES256", "RS256", "PS256"]) await accessTokens(alg, { jwks: { keyPairConfig: { alg } } });
await unsupportedAlgorithm();
await otherTokens("no cache", undefined, undefined);
for (const [strategy, reason] of [["compact", "malformed"], ["jwt", "bad_claims"], ["jwe", "unsupported_algorithm"]]) {
  await otherTokens(`cache ${strategy}`, undefined, { strategy }, reason);
}
await otherTokens("cache jwt by published key", { sessionCookieCache: true }, { strategy: "jwt" }, "wrong_type");
await oauthAndApiKeys();
await otherSetups();
await rotation();
await sharedSecret();
await walk(secret);
console.log(outcome.failures ? `better-auth: ${outcome.failures} failed` : "better-auth: all as expected");
process.exit(outcome.failures ? 1 : 0);
