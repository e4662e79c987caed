/**
 * The client of latchkey's API: attaches the access token, renews it, and reports each outcome as `{ data, error }`.
 * One ES module without dependencies, for browsers and Node.js; its types are in `api.d.ts`.
 *
 * No call throws or rejects. A token is sent to the origin of `baseUrl` and to no other. The access token stays in
 * memory; the refresh token goes to `storage`, or stays in memory if there is none that works.
 *
 * @import { ApiError, Answer, CallOptions, Client, ClientOptions, Page, TaskFilter, Tokens, TokenStorage } from "./api.d.ts"
 * @typedef {{ token: string | null, error: ApiError | null }} Access
 * @typedef {Answer & { link?: string | null }} Outcome
 */

/** An access token is replaced this long before it expires. */
const REFRESH_EARLY_MS = 30_000;
/** Time limit of one attempt. The server answers within 10 s. */
const TIMEOUT_MS = 12_000;
/** The longest `Retry-After` that is waited for. A longer one is left to the caller. */
const MAX_WAIT_SECONDS = 10;
/**
 * Three attempts of 12 s and two pauses of 10 s take 56 s. For 60 s the server answers a repeated refresh with the same
 * successor; after that, the repeat would count as reuse and end the session.
 */
const MAX_REPEATS = 2;
/** The name under which `storage` holds the refresh token. */
const REFRESH_TOKEN = "latchkey.refresh_token";
/** @type {Access} */
const NO_TOKEN = { token: null, error: null };

/**
 * A client of the server at `baseUrl`. Creating it sends no request.
 *
 * @param {ClientOptions} [options]
 * @returns {Client}
 */
export function createClient({ baseUrl, getToken, storage, onUnauthorized } = {}) {
  const base = (baseUrl ?? globalThis.location?.origin ?? "").replace(/\/+$/, "");
  // A page has one user. On a server, two calls in flight may belong to two visitors.
  const hasManyUsers = Boolean(getToken) && typeof document === "undefined";
  const tokens = getToken ? externalTokens(getToken, !hasManyUsers) : ownTokens(base, storage);
  let wasUnauthorized = false;
  /** Raised by each login and logout, so that a login cannot undo what was asked for after it. */
  let changesOfUser = 0;

  /**
   * One operation with the bearer token. After a 401, which had no effect, it is repeated once with a new token.
   *
   * @param {string} method
   * @param {string} path
   * @param {CallOptions & { body?: object, repeatable?: boolean }} [options]
   * @returns {Promise<Outcome>}
   */
  async function authorized(method, path, { body, repeatable = method === "GET", signal } = {}) {
    const send = (/** @type {string | null} */ token) =>
      exchange(base + path, { method, body, token, repeatable, signal });
    const first = await unlessAborted(tokens.current(), signal);
    if (first.error) return report(first);
    const answer = await send(first.token);
    if (answer.error?.status !== 401 || !first.token) return report(answer);

    const second = await unlessAborted(tokens.after(first.token), signal);
    if (second.error) return report(second);
    if (!second.token || second.token === first.token) return report(answer);
    // A call that began as one user is not repeated as another.
    if (subjectOf(second.token) !== subjectOf(first.token)) return answer;
    const again = await send(second.token);
    if (again.error?.status === 401) await tokens.reject(second.token);
    return report(again);
  }

  /**
   * The outcome. Of several calls that end with 401, the first one calls `onUnauthorized`.
   *
   * @param {{ data?: any, error: ApiError | null, link?: string | null }} outcome
   * @returns {Outcome}
   */
  function report(outcome) {
    const { error } = outcome;
    if (error?.status === 401 && (hasManyUsers || !wasUnauthorized)) {
      // The promise catches what the page's own function throws or rejects with.
      new Promise((resolve) => resolve(onUnauthorized?.(error))).catch(console.error);
    }
    if (!error || error.status === 401) wasUnauthorized = error !== null;
    return { data: null, ...outcome };
  }

  /** @type {Client["login"]} */
  async function login({ email, password }, { signal } = {}) {
    const change = (changesOfUser += 1);
    const answer = await fetchTokens(`${base}/auth/login`, { body: { email, password }, signal });
    if (!answer.data) return answer;
    if (change !== changesOfUser) {
      // A logout or another login was asked for meanwhile: the session that this one opened is not wanted.
      void exchange(`${base}/auth/logout`, { method: "POST", token: answer.data.access_token });
      return { data: null, error: failure("Superseded", "Another login or a logout came after this login.") };
    }
    wasUnauthorized = false;
    await tokens.take(answer.data, answer.sentAt);
    return answer;
  }

  /**
   * Ends the session or all sessions. The tokens are forgotten even if the request fails.
   *
   * @param {string} path
   * @param {CallOptions} [options]
   * @returns {Promise<Answer<null>>}
   */
  async function leave(path, { signal } = {}) {
    changesOfUser += 1;
    const answer = await authorized("POST", path, { signal });
    await tokens.forget();
    // 401: the session is over already.
    return answer.error?.status === 401 ? { data: null, error: null } : answer;
  }

  const task = (/** @type {string} */ id) => `/api/me/tasks/${encodeURIComponent(id)}`;

  return {
    hasSession: () => tokens.hasSession(),
    register: safely(({ email, password }, { signal } = {}) =>
      exchange(`${base}/auth/register`, { method: "POST", body: { email, password }, signal })),
    login: safely(login),
    logout: safely(async (options) => {
      if (!getToken) return leave("/auth/logout", options);
      await tokens.forget();
      return { data: null, error: null };
    }),
    logoutAll: safely((options) => leave("/auth/logout-all", options)),
    me: safely(({ signal } = {}) => authorized("GET", "/auth/me", { signal })),
    changePassword: safely(({ currentPassword, newPassword }, { signal } = {}) =>
      authorized("PUT", "/auth/password", {
        body: { current_password: currentPassword, new_password: newPassword },
        signal,
      })),
    deleteAccount: safely(async ({ password }, { signal } = {}) => {
      const answer = await authorized("POST", "/auth/delete", { body: { password }, signal });
      if (!answer.error) await tokens.forget();
      return answer;
    }),
    tasks: {
      list: (filter, options) =>
        listing((search) => authorized("GET", `/api/me/tasks${search}`, { signal: options?.signal }), filter),
      create: safely(({ title, description }, { signal } = {}) =>
        authorized("POST", "/api/me/tasks", { body: { title, description }, signal })),
      get: safely((id, { signal } = {}) => authorized("GET", task(id), { signal })),
      update: safely((id, changes, { signal } = {}) =>
        authorized("PUT", task(id), { body: changes, repeatable: true, signal })),
      // Setting a value twice has the effect of setting it once; toggling twice has not.
      complete: safely((id, completed, { signal } = {}) =>
        authorized("PATCH", `${task(id)}/complete`, {
          body: completed === undefined ? undefined : { completed },
          repeatable: completed !== undefined,
          signal,
        })),
      remove: safely((id, { signal } = {}) => authorized("DELETE", task(id), { signal })),
    },
  };
}

// ------------------------------------------------------------------------------------------------------ tokens

/**
 * The tokens that latchkey issues: the refresh token in storage, the access token in memory, at most one refresh at a
 * time, for which all calls wait.
 *
 * @param {string} base
 * @param {ClientOptions["storage"]} given
 */
function ownTokens(base, given) {
  const storage = withFallback(given);
  /** @type {{ token: string, expiresAt: number } | null} */
  let held = null;
  /** @type {Promise<Access> | null} */
  let refreshing = null;
  /** Raised by each login and logout, so that a refresh that began earlier cannot undo it. */
  let generation = 0;

  const inHand = () => (held ? { token: held.token, error: null } : NO_TOKEN);
  const refreshOnce = () => (refreshing ??= refresh().finally(() => (refreshing = null)));

  /** @returns {Promise<Access>} */
  async function refresh() {
    const began = generation;
    const refreshToken = await storage.getItem();
    if (!refreshToken) return NO_TOKEN;
    const { data, error, sentAt } = await fetchTokens(`${base}/auth/refresh`, {
      body: { refresh_token: refreshToken },
      repeatable: true,
      lossy: true,
    });
    if (began !== generation) return inHand();
    if (data) return keep(data, sentAt);
    if (error?.status !== 401) return { token: null, error };
    // Another tab with the same storage may have replaced the token meanwhile.
    if ((await storage.getItem()) !== refreshToken) return refresh();
    await forget();
    return { token: null, error };
  }

  async function keep(/** @type {Tokens} */ tokens, /** @type {number} */ sentAt) {
    held = { token: tokens.access_token, expiresAt: sentAt + tokens.expires_in * 1000 };
    await storage.setItem(tokens.refresh_token);
    return { token: tokens.access_token, error: null };
  }

  // S63
  async function forget() {
    generation += 1;
    held = null;
    await storage.setItem(null);
  }

  return {
    /** The token for the next call. @returns {Promise<Access>} */
    async current() {
      const known = held;
      if (known && Date.now() < known.expiresAt - REFRESH_EARLY_MS) return inHand();
      const renewed = await refreshOnce();
      // A token that has not expired yet serves while the refresh gets no answer.
      const isAlive = known && held === known && Date.now() < known.expiresAt;
      return !renewed.token && isAlive ? inHand() : renewed;
    },
    /** Another token than the one that the server refused. */
    async after(/** @type {string} */ refused) {
      return held && held.token !== refused ? inHand() : refreshOnce();
    },
    /** The server refused this token although it is new: the session is over. */
    async reject(/** @type {string} */ token) {
      if (held?.token === token) await forget();
    },
    take(/** @type {Tokens} */ tokens, /** @type {number} */ sentAt) {
      generation += 1;
      return keep(tokens, sentAt);
    },
    forget,
    hasSession: async () => Boolean(await storage.getItem()),
  };
}

/**
 * S63: the tokens of another issuer, such as Better Auth. `getToken` is asked for each call and no token is kept, so that
 * the next call after a change of user is the new user's.
 *
 * @param {NonNullable<ClientOptions["getToken"]>} getToken
 * @param {boolean} isShared whether calls that wait at the same time get one answer
 */
function externalTokens(getToken, isShared) {
  /** @type {Promise<Access> | null} */
  let asking = null;

  /** @returns {Promise<Access>} */
  async function ask() {
    try {
      const answer = Promise.resolve(getToken()).then(tokenIn);
      return await unlessAborted(answer, AbortSignal.timeout(TIMEOUT_MS), tokenError(null));
    } catch (cause) {
      return { token: null, error: tokenError(cause) };
    }
  }

  function current() {
    if (!isShared) return ask();
    if (asking) return asking;
    const mine = ask().finally(() => {
      if (asking === mine) asking = null;
    });
    return (asking = mine);
  }

  return {
    current,
    after: current,
    async reject() {},
    async take() {},
    async forget() {
      asking = null;
    },
    hasSession: async () => Boolean((await current()).token),
  };
}

/** What `getToken` brought, in whichever of its shapes. @returns {Access} */
function tokenIn(/** @type {any} */ answer) {
  const token = typeof answer === "string" ? answer : (answer?.data?.token ?? answer?.token);
  if (token && typeof token === "string") return { token, error: null };
  const cause = answer instanceof Error ? answer : answer?.error;
  return { token: null, error: cause ? tokenError(cause) : null };
}

/** An error of Better Auth: returned with `status`, thrown on a server with `statusCode`. @returns {ApiError} */
function tokenError(/** @type {any} */ cause) {
  const status = [cause?.status, cause?.statusCode].find(Number.isInteger) ?? 0;
  const isForPeople = cause?.message && (status || !(cause instanceof Error));
  const detail = isForPeople ? String(cause.message) : "The token could not be fetched.";
  return { ...failure(String(cause?.statusText || "No token"), detail), status };
}

/** The claim `sub`, unverified; `undefined` if it cannot be read. */
function subjectOf(/** @type {string} */ token) {
  try {
    return JSON.parse(atob(String(token.split(".")[1]).replace(/-/g, "+").replace(/_/g, "/"))).sub;
  } catch {
    return undefined;
  }
}

/**
 * The refresh token in the given storage, or in memory where that is absent, blocked or full.
 *
 * @param {ClientOptions["storage"]} given
 */
function withFallback(given) {
  /** Wins over the storage where it is not `undefined`. @type {string | null | undefined} */
  let inMemory;
  const open = () => /** @type {TokenStorage} */ (typeof given === "function" ? given() : given);
  return {
    async getItem() {
      if (inMemory !== undefined) return inMemory;
      try {
        const value = await open().getItem(REFRESH_TOKEN);
        return typeof value === "string" ? value : null;
      } catch {
        return null;
      }
    },
    async setItem(/** @type {string | null} */ value) {
      inMemory = value;
      try {
        if (value !== null) await open().setItem(REFRESH_TOKEN, value);
        else await open().removeItem(REFRESH_TOKEN);
        if (inMemory === value) inMemory = undefined;
      } catch {
        // An older token left there would count as reused.
        await Promise.resolve().then(() => open().removeItem(REFRESH_TOKEN)).catch(() => {});
      }
    },
  };
}

// ---------------------------------------------------------------------------------------------------- requests

/**
 * The tokens of a login or refresh, and when they were asked for. An answer without them counts as none.
 *
 * @param {string} url
 * @param {Partial<Parameters<typeof exchange>[1]>} request
 * @returns {Promise<Answer<Tokens> & { sentAt: number }>}
 */
async function fetchTokens(url, request) {
  const sentAt = Date.now();
  const answer = await exchange(url, { method: "POST", ...request });
  const isWhole = typeof answer.data?.access_token === "string" && typeof answer.data.refresh_token === "string";
  return { ...(answer.error || isWhole ? strip(answer) : { data: null, error: NO_ANSWER }), sentAt };
}

/**
 * One request and its answer. Repeats only what is repeatable, and waits as long as `Retry-After` says.
 *
 * @param {string} url
 * @param {CallOptions & { method: string, body?: object, token?: string | null, repeatable?: boolean, lossy?: boolean }} options
 *   `lossy`: repeat also if no answer came, or a proxy's
 * @returns {Promise<Outcome>}
 */
async function exchange(url, { method, body, token, repeatable = false, lossy = false, signal }) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (token) headers["Authorization"] = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const request = { method, headers, body: body && JSON.stringify(body) };
  for (let repeats = 0; ; repeats += 1) {
    const answer = await send(url, request, signal);
    const { status = 200, retryAfter = null } = answer.error ?? {};
    const isBusy = status === 429 || status === 503;
    const isLost = lossy && (status === 0 || status >= 500);
    const seconds = retryAfter ?? (isLost ? 1 : MAX_WAIT_SECONDS + 1);
    const mayRepeat = repeatable && (isBusy || isLost) && repeats < MAX_REPEATS && seconds <= MAX_WAIT_SECONDS;
    if (!mayRepeat) return answer;
    await unlessAborted(new Promise((resolve) => setTimeout(resolve, seconds * 1000)), signal);
  }
}

/**
 * @param {string} url
 * @param {RequestInit} request
 * @param {AbortSignal} [signal]
 * @returns {Promise<Outcome>}
 */
async function send(url, request, signal) {
  const timeLimit = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const response = await fetch(url, {
      ...request,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, timeLimit]) : timeLimit,
    });
    const text = await response.text();
    if (!response.ok) return { data: null, error: problem(response, text) };
    return { data: text ? JSON.parse(text) : null, error: null, link: response.headers.get("Link") };
  } catch {
    return { data: null, error: signal?.aborted ? ABORTED : NO_ANSWER };
  }
}

/**
 * What is waited for, or this error if the signal aborts first. Other calls that wait for the same go on.
 *
 * @param {Promise<any>} pending
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
function unlessAborted(pending, signal, error = ABORTED) {
  if (!signal) return pending;
  return new Promise((resolve, reject) => {
    const stop = () => resolve({ token: null, error });
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop);
    pending.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

// ---------------------------------------------------------------------------------------------------- outcomes

/** @returns {ApiError} An error that no server answered with. */
const failure = (/** @type {string} */ title, /** @type {string} */ detail) =>
  ({ status: 0, title, detail, errors: [], retryAfter: null });

const NO_ANSWER = failure("No answer", "The server did not answer. Check the connection and try again.");
const ABORTED = failure("Aborted", "The call was aborted. The server may have acted on it.");

/** @returns {ApiError} */
function problem(/** @type {Response} */ response, /** @type {string} */ text) {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = null; // A proxy's own page.
  }
  const retryAfter = response.headers.get("Retry-After") ?? "";
  return {
    status: response.status,
    title: String(body?.title ?? (response.statusText || `Status ${response.status}`)),
    detail: String(body?.detail ?? "The server refused the request."),
    errors: Array.isArray(body?.errors) ? body.errors : [],
    retryAfter: /^\d+$/.test(retryAfter) ? Number(retryAfter) : null,
  };
}

/**
 * A page of tasks to be awaited, or all tasks to be iterated over: `for await (const { data, error } of …)`.
 *
 * @param {(search: string) => Promise<Outcome>} fetchPage
 * @param {TaskFilter} [filter]
 * @returns {Page}
 */
function listing(fetchPage, filter) {
  const first = caught(() => {
    const given = Object.entries(filter ?? {}).filter(([, value]) => value !== undefined && value !== null);
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return fetchPage(search && `?${search}`);
  });
  async function* everything() {
    let page = first;
    for (;;) {
      const { data, error, link } = await page;
      if (error) yield { data: null, error };
      for (const task of data ?? []) yield { data: task, error: null };
      // Only the query of the link is used, never its host.
      const next = /<[^>?]*(\?[^>]*)>\s*;\s*rel="?next"?/.exec(link ?? "")?.[1];
      if (error || !next) return;
      page = caught(() => fetchPage(next));
    }
  }
  return Object.assign(first.then(strip), { [Symbol.asyncIterator]: everything });
}

/**
 * The outcome; an exception, such as one caused by a wrong argument, becomes an error.
 *
 * @param {() => Promise<Outcome>} operation
 * @returns {Promise<Outcome>}
 */
async function caught(operation) {
  try {
    return await operation();
  } catch (cause) {
    return { data: null, error: failure("Invalid call", `The request could not be made: ${cause}`) };
  }
}

/**
 * `operation` as a method that always resolves to `{ data, error }`.
 *
 * @template {any[]} Arguments
 * @param {(...args: Arguments) => Promise<Answer>} operation
 * @returns {(...args: Arguments) => Promise<Answer>}
 */
const safely = (operation) => async (...args) => strip(await caught(() => operation(...args)));

/** @returns {Answer} */
const strip = (/** @type {Answer} */ { data, error }) => ({ data, error });
