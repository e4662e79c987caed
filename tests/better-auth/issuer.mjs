// A real Better Auth on loopback, in memory, with one user who signed up over HTTP; and every token that it gave them.

import http from "node:http";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";

/** Starts Better Auth with these options of its JWT plugin and of its cookie cache. */
export async function start({ secret, plugin, cookieCache }) {
  const server = http.createServer((request, response) => handler(request, response));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const mailed = [];
  const auth = betterAuth({
    baseURL: origin,
    secret,
    database: memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] }),
    emailAndPassword: { enabled: true },
    emailVerification: {
      sendOnSignUp: true,
      sendVerificationEmail: async ({ token }) => void mailed.push(token),
    },
    session: { cookieCache: cookieCache && { enabled: true, ...cookieCache } },
    plugins: [jwt(plugin)],
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: { level: "error" },
  });
  const handler = toNodeHandler(auth);
  return { origin, mailed, stop: () => server.close(() => server.closeAllConnections()) };
}

/** Signs a user up: the id, and the cookies by the end of their names. */
export async function signUp({ origin }, name) {
  const answer = await fetch(`${origin}/api/auth/sign-up/email`, {
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
export async function token({ origin }, user) {
  const answer = await fetch(`${origin}/api/auth/token`, { headers: { Cookie: user.header } });
  return (await answer.json()).token;
}

/** The token in the header that the JWT plugin adds to `getSession`. */
export async function tokenOfSession({ origin }, user) {
  const answer = await fetch(`${origin}/api/auth/get-session`, { headers: { Cookie: user.header } });
  return answer.headers.get("set-auth-jwt");
}

export async function signOut({ origin }, user) {
  const headers = { Cookie: user.header, Origin: origin, "Content-Type": "application/json" };
  const answer = await fetch(`${origin}/api/auth/sign-out`, { method: "POST", headers, body: "{}" });
  if (answer.status !== 200) throw new Error(`sign-out: ${answer.status}`);
}
