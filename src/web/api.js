/**
 * The browser's side of latchkey: attaches the access token, refreshes it, and words every outcome in one way.
 * One ES module without dependencies, for browsers and Node.js; its types stand in `api.d.ts`.
 *
 * It never throws and never sends a token to another origin than `baseUrl`'s. The access token stays in memory; the
 * refresh token goes to `storage`, which is memory too unless one is given.
 *
 * @import { ApiError, Answer, Client, ClientOptions, Page, Task, TaskFilter, Tokens, TokenStorage } from "./api.d.ts"
 * @typedef {{ token: string | null, error: ApiError | null }} Renewal
 */

/** How long before its end an access token is replaced. */
const REFRESH_EARLY_MS = 30_000;
/** No answer after this time counts as none. */
const TIMEOUT_MS = 30_000;
/** The longest `Retry-After` that is waited for; a longer one is the caller's to show. */
const MAX_WAIT_SECONDS = 10;
const MAX_REPEATS = 2;
/** The name under which `storage` holds the refresh token. */
const REFRESH_TOKEN = "latchkey.refresh_token";
/** @type {Renewal} */
const NO_TOKEN = { token: null, error: null };

/**
 * A client of the server at `baseUrl`. Makes no request until it is asked for something.
 *
 * @param {ClientOptions} [options]
 * @returns {Client}
 */
export function createClient({ baseUrl, getToken, storage = inMemory(), onUnauthorized } = {}) {
  const base = (baseUrl ?? globalThis.location?.origin ?? "").replace(/\/+$/, "");
  const tokens = getToken ? externalTokens(getToken) : ownTokens(base, storage);
  let wasLoggedOut = false;

  /**
   * One operation with the bearer token, after a 401 once more with a new one: a 401 had no effect.
   *
   * @param {string} method
   * @param {string} path
   * @param {{ body?: object, repeatable?: boolean }} [options]
   */
  async function authorized(method, path, { body, repeatable = method === "GET" } = {}) {
    const first = await tokens.current();
    if (first.error) return told(first);
    const answer = await exchange(base + path, { method, body, token: first.token, repeatable });
    if (answer.error?.status !== 401) return told(answer);

    const second = await tokens.after(first.token);
    if (second.error) return told(second);
    if (!second.token) return told(answer);
    const again = await exchange(base + path, { method, body, token: second.token, repeatable });
    if (again.error?.status === 401 && tokens.holds(second.token)) await tokens.forget();
    return told(again);
  }

  /** The outcome; where it says that the user has to log in, the page is told once for all calls that learn it. */
  function told(/** @type {{ data?: any, error: ApiError | null, link?: string | null }} */ outcome) {
    const isLoggedOut = outcome.error?.status === 401;
    if (isLoggedOut && !wasLoggedOut) onUnauthorized?.(/** @type {ApiError} */ (outcome.error));
    if (isLoggedOut || !outcome.error) wasLoggedOut = isLoggedOut;
    return { data: null, ...outcome };
  }

  /**
   * An operation that ends the caller's session or all of them. The tokens are forgotten even if it fails: who wants to
   * leave must not stay logged in here.
   *
   * @param {string} path
   */
  async function leave(path) {
    const answer = await authorized("POST", path);
    await tokens.forget();
    // What was to be ended is over already.
    return answer.error?.status === 401 ? { data: null, error: null } : strip(answer);
  }

  const json = async (/** @type {Promise<any>} */ pending) => strip(await pending);
  const task = (/** @type {string} */ id) => `/api/me/tasks/${encodeURIComponent(id)}`;

  return {
    register: ({ email, password }) =>
      json(exchange(`${base}/auth/register`, { method: "POST", body: { email, password } })),
    async login({ email, password }) {
      const sentAt = Date.now();
      const answer = await exchange(`${base}/auth/login`, { method: "POST", body: { email, password } });
      if (answer.data) await tokens.take(answer.data, sentAt);
      return strip(answer);
    },
    logout: () => leave("/auth/logout"),
    logoutAll: () => leave("/auth/logout-all"),
    me: () => json(authorized("GET", "/auth/me")),
    changePassword: ({ currentPassword, newPassword }) =>
      json(authorized("PUT", "/auth/password", {
        body: { current_password: currentPassword, new_password: newPassword },
      })),
    async deleteAccount({ password }) {
      const answer = await authorized("POST", "/auth/delete", { body: { password } });
      if (!answer.error) await tokens.forget();
      return strip(answer);
    },
    tasks: {
      list: (filter = {}) => listing((search) => authorized("GET", `/api/me/tasks${search}`), filter),
      create: ({ title, description }) =>
        json(authorized("POST", "/api/me/tasks", { body: { title, description } })),
      get: (id) => json(authorized("GET", task(id))),
      update: (id, changes) => json(authorized("PUT", task(id), { body: changes, repeatable: true })),
      // Setting a value twice is setting it once; toggling twice is not.
      complete: (id, completed) =>
        json(authorized("PATCH", `${task(id)}/complete`, {
          body: completed === undefined ? undefined : { completed },
          repeatable: completed !== undefined,
        })),
      remove: (id) => json(authorized("DELETE", task(id))),
    },
  };
}

/**
 * The access token in use, and at most one renewal under way, for which all calls wait.
 *
 * @param {() => Promise<Renewal>} renew
 */
function accessToken(renew) {
  /** @type {{ token: string, expiresAt: number } | null} */
  let held = null;
  /** @type {Promise<Renewal> | null} */
  let renewing = null;
  const inHand = () => (held ? { token: held.token, error: null } : NO_TOKEN);
  const renewOnce = () => (renewing ??= renew().finally(() => (renewing = null)));
  return {
    hold(/** @type {typeof held} */ access) {
      held = access;
    },
    inHand,
    holds: (/** @type {string | null} */ token) => held?.token === token,
    /** @returns {Promise<Renewal>} */
    async current() {
      const known = held;
      if (known && Date.now() < known.expiresAt - REFRESH_EARLY_MS) return inHand();
      const renewed = await renewOnce();
      // What still lives serves while the renewal cannot be answered.
      const stillLives = known && held === known && Date.now() < known.expiresAt;
      return !renewed.token && stillLives ? inHand() : renewed;
    },
    /** Another token than the refused one; none where there is none to be had. */
    async after(/** @type {string | null} */ refused) {
      return held && held.token !== refused ? inHand() : renewOnce();
    },
  };
}

/**
 * Our own tokens: the refresh token in `storage`, the access token in memory.
 *
 * @param {string} base
 * @param {TokenStorage} storage
 */
function ownTokens(base, storage) {
  const access = accessToken(refresh);
  /** Raised by every login and logout, so that a refresh that began before cannot undo it. */
  let generation = 0;

  /** @returns {Promise<Renewal>} */
  async function refresh() {
    const began = generation;
    const refreshToken = await storage.getItem(REFRESH_TOKEN);
    if (!refreshToken) return NO_TOKEN;
    const sentAt = Date.now();
    // The server gives the same successor for ten seconds, so that repeating after a lost answer is safe.
    const request = { method: "POST", body: { refresh_token: refreshToken }, repeatable: true, lossy: true };
    const { data, error } = await exchange(`${base}/auth/refresh`, request);
    if (began !== generation) return access.inHand();
    if (data) return keep(data, sentAt);
    if (error?.status !== 401) return { token: null, error };
    // Another tab may have been faster, where it shares `storage`.
    if ((await storage.getItem(REFRESH_TOKEN)) !== refreshToken) return refresh();
    await forget();
    return { token: null, error };
  }

  async function keep(/** @type {Tokens} */ tokens, /** @type {number} */ sentAt) {
    access.hold({ token: tokens.access_token, expiresAt: sentAt + tokens.expires_in * 1000 });
    await storage.setItem(REFRESH_TOKEN, tokens.refresh_token);
    return { token: tokens.access_token, error: null };
  }

  async function forget() {
    generation += 1;
    access.hold(null);
    await storage.removeItem(REFRESH_TOKEN);
  }

  return {
    ...access,
    forget,
    take(/** @type {Tokens} */ tokens, /** @type {number} */ sentAt) {
      generation += 1;
      return keep(tokens, sentAt);
    },
  };
}

/**
 * Tokens of somebody else, Better Auth for instance: each is used until shortly before its own `exp`.
 *
 * @param {NonNullable<ClientOptions["getToken"]>} getToken
 */
function externalTokens(getToken) {
  const access = accessToken(async () => {
    try {
      const answer = await getToken();
      const { data, error } = typeof answer === "string" ? { data: { token: answer } } : (answer ?? {});
      if (data?.token) {
        access.hold({ token: data.token, expiresAt: expiryOf(data.token) });
        return { token: data.token, error: null };
      }
      return { token: null, error: error ? external(error) : null };
    } catch {
      return { token: null, error: noAnswer("The token could not be fetched.") };
    }
  });
  return {
    ...access,
    async take() {},
    async forget() {
      access.hold(null);
    },
  };
}

/**
 * One request and its answer. Repeats only what is repeatable, and only as soon as the server asks for it.
 *
 * @param {string} url
 * @param {{ method: string, body?: object, token?: string | null, repeatable?: boolean, lossy?: boolean }} options
 *   `lossy`: repeat also where no answer came
 * @returns {Promise<Answer & { link?: string | null }>}
 */
async function exchange(url, { method, body, token, repeatable = false, lossy = false }) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (token) headers["Authorization"] = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  for (let repeats = 0; ; repeats += 1) {
    const answer = await send(url, { method, headers, body: body && JSON.stringify(body) });
    const { status, retryAfter } = answer.error ?? {};
    const isBusy = status === 429 || status === 503;
    const seconds = isBusy ? retryAfter : lossy && status === 0 ? 1 : null;
    const mayRepeat = repeatable && repeats < MAX_REPEATS && seconds != null && seconds <= MAX_WAIT_SECONDS;
    if (!mayRepeat) return answer;
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  }
}

/** @returns {Promise<Answer & { link?: string | null }>} */
async function send(/** @type {string} */ url, /** @type {RequestInit} */ request) {
  try {
    const response = await fetch(url, {
      ...request,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await response.text();
    if (!response.ok) return { data: null, error: problem(response, text) };
    return { data: text ? JSON.parse(text) : null, error: null, link: response.headers.get("Link") };
  } catch {
    return { data: null, error: noAnswer("The server did not answer. Check the connection and try again.") };
  }
}

/** @returns {ApiError} */
function problem(/** @type {Response} */ response, /** @type {string} */ text) {
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    told = null; // A proxy's own page.
  }
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return {
    status: response.status,
    title: String(told?.title ?? (response.statusText || `Status ${response.status}`)),
    detail: String(told?.detail ?? "The server refused the request."),
    errors: Array.isArray(told?.errors) ? told.errors : [],
    retryAfter: Number.isNaN(seconds) ? null : seconds,
  };
}

/** @returns {ApiError} */
const noAnswer = (/** @type {string} */ detail) => ({ status: 0, title: "No answer", detail, errors: [], retryAfter: null });

/** @returns {ApiError} An error in Better Auth's words. */
const external = (/** @type {{ status?: number, statusText?: string, message?: string }} */ failure) => ({
  ...noAnswer(failure.message ?? "The token could not be fetched."),
  status: failure.status ?? 0,
  title: failure.statusText ?? "No token",
});

/**
 * A page of tasks to be awaited, or all tasks to be iterated over: `for await (const { data, error } of …)`.
 *
 * @param {(search: string) => Promise<Answer & { link?: string | null }>} fetchPage
 * @param {TaskFilter} filter
 * @returns {Page}
 */
function listing(fetchPage, filter) {
  const given = Object.entries(filter).filter(([, value]) => value !== undefined && value !== null);
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  const first = fetchPage(search && `?${search}`);
  async function* everything() {
    let page = first;
    for (;;) {
      const { data, error, link } = await page;
      if (error) yield { data: null, error };
      for (const task of data ?? []) yield { data: task, error: null };
      // Of the link only the query counts: where it points to is ours to know.
      const next = /<[^>?]*(\?[^>]*)>\s*;\s*rel="?next"?/.exec(link ?? "");
      if (error || !next) return;
      page = fetchPage(/** @type {string} */ (next[1]));
    }
  }
  return Object.assign(first.then(strip), { [Symbol.asyncIterator]: everything });
}

/** @returns {Answer} */
const strip = (/** @type {Answer} */ { data, error }) => ({ data, error });

/** `exp` in milliseconds; 0, so that it is never kept, where the token does not say. */
function expiryOf(/** @type {string} */ token) {
  try {
    const claims = JSON.parse(atob(String(token.split(".")[1]).replace(/-/g, "+").replace(/_/g, "/")));
    return Number.isFinite(claims.exp) ? claims.exp * 1000 : 0;
  } catch {
    return 0;
  }
}

/** @returns {TokenStorage} */
function inMemory() {
  /** @type {Map<string, string>} */
  const items = new Map();
  return {
    getItem: (name) => items.get(name) ?? null,
    setItem: (name, value) => void items.set(name, value),
    removeItem: (name) => void items.delete(name),
  };
}
