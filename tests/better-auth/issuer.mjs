// A real Better Auth on loopback, in memory, with users who sign up over HTTP; and every token that it issues.

import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";

const CALLBACK = "https://client.example/callback";
const TABLES = ["user", "session", "account", "verification", "jwks", "apikey", "oauthClient", "oauthRefreshToken"];
const OAUTH_TABLES = ["oauthAccessToken", "oauthConsent", "oauthResource", "oauthClientResource", "oauthClientAssertion"];

/** A server on a free port whose handler is set once the origin is known; it counts the requests of each path. */
export async function listen(host = "127.0.0.1") {
  const issuer = { handler: null, requests: {} };
  const server = http.createServer((request, response) => {
    const path = request.url.split("?")[0];
    issuer.requests[path] = (issuer.requests[path] ?? 0) + 1;
    return issuer.handler(request, response);
  });
  await new Promise((resolve) => server.listen(0, host, resolve));
  issuer.origin = `http://${host}:${server.address().port}`;
  issuer.stop = () => server.close(() => server.closeAllConnections());
  return issuer;
}

/**
 * Starts Better Auth with these options of its JWT plugin and of its cookie cache. `options` gets the origin and returns
 * further ones; `path` is where they put the endpoints.
 */
export async function start({ secret, plugin, cookieCache, plugins = () => [], options = () => ({}), host, path = "/api/auth" }) {
  const issuer = await listen(host);
  const { origin } = issuer;
  const mailed = [];
  const auth = betterAuth({
    baseURL: origin,
    secret,
    database: memoryAdapter(Object.fromEntries([...TABLES, ...OAUTH_TABLES].map((table) => [table, []]))),
    emailAndPassword: { enabled: true },
    emailVerification: {
      sendOnSignUp: true,
      sendVerificationEmail: async ({ token }) => void mailed.push(token),
    },
    session: { cookieCache: cookieCache && { enabled: true, ...cookieCache } },
    plugins: [jwt(plugin), ...plugins(origin)],
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: { level: "error" },
    ...options(origin),
  });
  issuer.handler = toNodeHandler(auth);
  return Object.assign(issuer, { auth, mailed, base: origin + path });
}

/** Signs a user up: the id, and the cookies by the end of their names. */
export async function signUp({ origin, base }, name) {
  const answer = await fetch(`${base}/sign-up/email`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Origin: origin },
    body: JSON.stringify({ name, email: `${name}@example.org`, password: "correct horse battery staple 7" }),
  });
  if (answer.status !== 200) throw new Error(`sign-up: ${answer.status} ${await answer.text()}`);
  const jar = answer.headers.getSetCookie().map((line) => line.split(";")[0].split(/=(.*)/s).slice(0, 2));
  const cookies = Object.fromEntries(jar.map(([key, value]) => [key.split(".").pop(), decodeURIComponent(value)]));
  return { id: (await answer.json()).user.id, cookies, header: jar.map((pair) => pair.join("=")).join("; ") };
}

/** What `authClient.token()` asks. */
export async function token({ base }, user) {
  const answer = await fetch(`${base}/token`, { headers: { Cookie: user.header } });
  return (await answer.json()).token;
}

/** The token in the header that the JWT plugin adds to `getSession`. */
export async function tokenOfSession({ base }, user) {
  const answer = await fetch(`${base}/get-session`, { headers: { Cookie: user.header } });
  return answer.headers.get("set-auth-jwt");
}

export async function signOut({ origin, base }, user) {
  const headers = { Cookie: user.header, Origin: origin, "Content-Type": "application/json" };
  const answer = await fetch(`${base}/sign-out`, { method: "POST", headers, body: "{}" });
  if (answer.status !== 200) throw new Error(`sign-out: ${answer.status}`);
}

/** The tokens that Better Auth's OAuth provider gives to a client for this user: authorization code with PKCE. */
export async function oauthTokens({ origin, base, auth }, user) {
  const body = { redirect_uris: [CALLBACK], skip_consent: true, token_endpoint_auth_method: "none", scope: "openid" };
  const headers = new Headers({ Cookie: user.header, Origin: origin });
  const { client_id } = await auth.api.adminCreateOAuthClient({ headers, body });
  const verifier = randomBytes(32).toString("base64url");
  const challenge = createHash("sha256").update(verifier).digest("base64url");
  const common = { client_id, redirect_uri: CALLBACK, resource: origin };
  const asked = new URLSearchParams({
    ...common, response_type: "code", scope: "openid", state: "x", code_challenge: challenge, code_challenge_method: "S256",
  });
  const authorized = await fetch(`${base}/oauth2/authorize?${asked}`, { headers: { Cookie: user.header }, redirect: "manual" });
  const code = new URL((await authorized.json()).url).searchParams.get("code");
  const grant = new URLSearchParams({ ...common, grant_type: "authorization_code", code, code_verifier: verifier });
  const answer = await fetch(`${base}/oauth2/token`, { method: "POST", headers: { Origin: origin }, body: grant });
  if (answer.status !== 200) throw new Error(`OAuth: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
