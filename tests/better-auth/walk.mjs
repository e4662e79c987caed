// The chapter on Better Auth, step by step, with its own samples, compiled into `out/`: the browser is Node.js with a
// jar of cookies, Next.js is its `headers()`.

import { toNodeHandler } from "better-auth/node";
import { visitor } from "next/headers";
import { listen } from "./issuer.mjs";
import { ask, check, latchkey, refusal, serve } from "./server.mjs";

const sample = (path) => import(`./out/${path}.js`);
const PASSWORD = "correct horse battery staple 7";

/** From here on requests to this origin carry its cookies, as in a browser. */
function browse(origin) {
  const jar = new Map();
  const send = globalThis.fetch;
  globalThis.fetch = async (url, request = {}) => {
    const isTheirs = String(url).startsWith(origin);
    const headers = new Headers(request.headers);
    if (isTheirs) {
      headers.set("Origin", origin);
      headers.set("Cookie", [...jar].map((pair) => pair.join("=")).join("; "));
    }
    const answer = await send(url, { ...request, headers });
    for (const line of isTheirs ? answer.headers.getSetCookie() : []) {
      const [name, value] = line.split(";")[0].split(/=(.*)/s);
      if (value && !/max-age=0/i.test(line)) jar.set(name, value);
      else jar.delete(name);
    }
    return answer;
  };
  const visits = [];
  Object.assign(globalThis, { document: {}, location: { origin, assign: (to) => visits.push(to) } });
  return { jar, visits, cookies: () => [...jar].map((pair) => pair.join("=")).join("; ") };
}

export async function walk(secret) {
  const issuer = await listen("localhost");
  const { origin } = issuer;
  const server = await serve({ BETTER_AUTH_URL: origin, CORS_ORIGINS: origin });
  Object.assign(process.env, {
    BETTER_AUTH_URL: origin,
    BETTER_AUTH_SECRET: secret,
    NEXT_PUBLIC_APP_URL: origin,
    NEXT_PUBLIC_LATCHKEY_URL: server.base,
    LATCHKEY_URL: server.base,
  });
  const { auth } = await sample("lib/auth");
  issuer.handler = toNodeHandler(auth);
  const keys = `key_set=${origin}/api/auth/jwks issuer=${origin} audience=${origin}`;
  check("walk: the start names what is accepted", server.log.includes(`event=better_auth ${keys} shared_secret=none`), true);

  const { jar, visits, cookies } = browse(origin);
  const { authClient } = await sample("lib/auth-client");
  const { latchkey: client } = await sample("lib/tasks");
  const { titles } = await sample("lib/titles");
  const signUp = async (name) => {
    const { data } = await authClient.signUp.email({ name, email: `${name}@example.org`, password: PASSWORD });
    return { id: data.user.id, cookies: cookies() };
  };

  const ada = await signUp("ada");
  const made = await client.tasks.create({ title: "Buy milk" });
  check("walk: the first task", [made.error, made.data?.user_id], [null, ada.id]);
  check("walk: the list", await titles(), ["Buy milk"]);
  const preflight = await fetch(`${server.base}/api/me/tasks`, {
    method: "OPTIONS",
    headers: { Origin: origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization" },
  });
  check("walk: CORS", preflight.headers.get("Access-Control-Allow-Origin"), origin);
  const checked = await latchkey(["check"], { BETTER_AUTH_URL: origin });
  check("walk: check", [checked.stdout.includes(`${keys} shared_secret=none`), /key EdDSA/.test(checked.stdout)], [true, true]);

  const bob = await signUp("bob");
  check("walk: another user signed in", (await client.me()).data?.id, bob.id);
  check("walk: the other user's list", await titles(), []);
  await onServer([ada, bob]);
  await authClient.signOut();
  check("walk: signed out", [(await client.me()).error?.status, (await client.me()).error?.status], [401, 401]);
  check("walk: onUnauthorized", visits, ["/sign-in"]);
  check("walk: hasSession", await client.hasSession(), false);

  await keptTokens(issuer, server, authClient);
  await oneEnvironment(origin, secret, ada);
  jar.clear();
  await server.stop();
  issuer.stop();
}

async function keptTokens(issuer, server, authClient) {
  const { keptToken } = await sample("lib/kept-token");
  const { createClient } = await sample("lib/latchkey/api");
  const count = () => issuer.requests["/api/auth/token"];
  const signIn = async (name) =>
    (await authClient.signIn.email({ email: `${name}@example.org`, password: PASSWORD })).data.user.id;
  const ada = await signIn("ada");
  const client = createClient({ baseUrl: server.base, getToken: keptToken(ada) });
  const before = count();
  for (let calls = 0; calls < 3; calls += 1) check("kept token: whose", (await client.me()).data?.id, ada);
  check("kept token: requests", count() - before, 1);
  const bob = await signIn("bob");
  const next = createClient({ baseUrl: server.base, getToken: keptToken(bob) });
  check("kept token: of the next session", (await next.me()).data?.id, bob);
  const late = createClient({ baseUrl: server.base, getToken: keptToken(ada) });
  const again = count();
  for (let calls = 0; calls < 2; calls += 1) check("kept token: page of another user", (await late.me()).data?.id, bob);
  check("kept token: not kept for another user", count() - again, 2);
}

/** One client for all visitors, whose calls are in flight together. */
async function onServer(users) {
  const { document } = globalThis;
  delete globalThis.document;
  const { latchkey: client } = await sample("lib/tasks-on-server");
  globalThis.document = document;
  const as = (user) => visitor.run(new Headers({ Cookie: user?.cookies ?? "" }), () => client.me());
  const everybody = [...users, ...users, ...users];
  const seen = (await Promise.all(everybody.map(as))).map(({ data }) => data?.id);
  check("server: visitors are not mixed up", seen, everybody.map(({ id }) => id));
  check("server: a visitor who is not signed in", (await as(null)).error?.status, 401);
}

async function oneEnvironment(origin, secret, user) {
  const server = await serve({ BETTER_AUTH_URL: origin, BETTER_AUTH_SECRET: secret });
  check("one .env: the start", server.log.includes("shared_secret=accepted"), true);
  const { GET } = await sample("app/api/latchkey-token/route");
  const request = (Cookie) => new Request(`${origin}/api/latchkey-token`, { headers: { Cookie } });
  check("shared secret: without a session", (await GET(request(""))).status, 401);
  const { token } = await (await GET(request(user.cookies))).json();
  const me = await ask(server, token, "GET", "/auth/me");
  check("shared secret: the sample's token", [me.status, me.json.id], [200, user.id]);
  await server.stop();
  const without = await serve({ BETTER_AUTH_URL: origin });
  check("shared secret: off", await refusal(without, token), [401, "better_auth_not_configured"]);
  await without.stop();
  check("shared secret: too short", (await latchkey(["serve"], { BETTER_AUTH_SECRET: "short" })).code, 2);
}
