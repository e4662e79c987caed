/** Types of `api.js`, the client of latchkey's API. */

/** A user. */
export interface User {
  id: string;
  /** `null` for a user of Better Auth, of whom the server knows only the id. */
  email: string | null;
  is_active: boolean;
  /** RFC 3339, UTC. `null` for a user of Better Auth before the first task. */
  created_at: string | null;
}

/** A task. */
export interface Task {
  id: string;
  user_id: string;
  title: string;
  description: string | null;
  completed: boolean;
  /** RFC 3339, UTC. */
  created_at: string;
  /** RFC 3339, UTC. */
  updated_at: string;
}

/** What a login returns. The client keeps it already: there is no need to store it. */
export interface Tokens {
  access_token: string;
  token_type: "bearer";
  /** Seconds. */
  expires_in: number;
  refresh_token: string;
  /** Seconds. */
  refresh_expires_in: number;
}

/** Why a call failed. */
export interface ApiError {
  /**
   * The status of the answer. 0 if there is none: no connection, no answer in time, an aborted call (`signal.aborted`
   * is then true), or an argument from which no request can be made.
   */
  status: number;
  title: string;
  /** A sentence for a person. */
  detail: string;
  /** For a 422: each broken rule. `field` is empty for the body as a whole. */
  errors: { field: string; detail: string }[];
  /** For a 429 or 503: seconds to wait. */
  retryAfter: number | null;
}

/** What every call resolves to. No call throws or rejects. */
export type Answer<T = any> = { data: T; error: null } | { data: null; error: ApiError };

/** A page of tasks to be awaited, or all tasks, page after page, to be iterated over. The last item may be an error. */
export interface Page extends Promise<Answer<Task[]>> {
  [Symbol.asyncIterator](): AsyncGenerator<Answer<Task>, void, undefined>;
}

export interface TaskFilter {
  completed?: boolean;
  /** Tasks per page, 1 to 100; 50 where not given. */
  limit?: number;
  /** The id of the last task seen. */
  after?: string;
}

export interface CallOptions {
  /** Aborts this call alone. An aborted write may have been carried out. */
  signal?: AbortSignal;
}

/** The shape of Web Storage. `sessionStorage`, `localStorage` and asynchronous stores fit. */
export interface TokenStorage {
  getItem(name: string): string | null | Promise<string | null>;
  setItem(name: string, value: string): void | Promise<void>;
  removeItem(name: string): void | Promise<void>;
}

/** What Better Auth's `authClient.token()` resolves to (`data`), or `auth.api.getToken()` on a server (`token`). */
export interface ExternalToken {
  data?: { token: string } | null;
  token?: string | null;
  error?: { message?: string; status?: number; statusText?: string } | null;
}

type Token = ExternalToken | Error | string | null | undefined | void;

export interface ClientOptions {
  /** The server's address. Default: the origin of the page. */
  baseUrl?: string;
  /**
   * Fetches the access token from another issuer, such as Better Auth: `() => authClient.token()`. It is asked for each
   * call, so that the token is always the present user's. In a page, calls that wait at the same time share one answer;
   * elsewhere each asks for itself, because two calls may belong to two visitors. No token is kept. It may throw.
   */
  getToken?: () => Token | Promise<Token>;
  /**
   * Where the refresh token is kept: `() => sessionStorage`. The function also works where that is missing or blocked,
   * and while a page is rendered on a server. Default, and in place of a storage that fails: memory.
   */
  storage?: TokenStorage | (() => TokenStorage) | null;
  /**
   * Called with the 401 when the user must log in again; once, until a login or another call succeeds. With `getToken`
   * on a server: for each such call.
   */
  onUnauthorized?: (error: ApiError) => void;
}

export interface Client {
  /**
   * Whether there is a session to go on with: a refresh token in the storage, or a token from `getToken`. Does not ask
   * the server, which may have ended it.
   */
  hasSession(): Promise<boolean>;
  /** Creates the account; does not log in. Never repeated. */
  register(credentials: { email: string; password: string }, options?: CallOptions): Promise<Answer<User>>;
  /** Logs in, and keeps the tokens unless there is `getToken`. */
  login(credentials: { email: string; password: string }, options?: CallOptions): Promise<Answer<Tokens>>;
  /**
   * Ends this session. The tokens are forgotten in any case; an error means that the session may still be open on the
   * server. With `getToken` it sends no request: the issuer ends its own sessions.
   */
  logout(options?: CallOptions): Promise<Answer<null>>;
  /** Ends all sessions of the user. With `getToken`: 403, as `changePassword` and `deleteAccount`. */
  logoutAll(options?: CallOptions): Promise<Answer<null>>;
  me(options?: CallOptions): Promise<Answer<User>>;
  /** Ends every other session. */
  changePassword(
    passwords: { currentPassword: string; newPassword: string },
    options?: CallOptions,
  ): Promise<Answer<null>>;
  /** Deletes the user, the tasks and the sessions. */
  deleteAccount(confirmation: { password: string }, options?: CallOptions): Promise<Answer<null>>;
  tasks: {
    /** The signal also ends an iteration: its last item is then an error. */
    list(filter?: TaskFilter, options?: CallOptions): Page;
    create(task: { title: string; description?: string | null }, options?: CallOptions): Promise<Answer<Task>>;
    get(id: string, options?: CallOptions): Promise<Answer<Task>>;
    update(
      id: string,
      changes: { title?: string; description?: string | null; completed?: boolean },
      options?: CallOptions,
    ): Promise<Answer<Task>>;
    /** Sets the value, or toggles it if none is given. */
    complete(id: string, completed?: boolean, options?: CallOptions): Promise<Answer<Task>>;
    remove(id: string, options?: CallOptions): Promise<Answer<null>>;
  };
}

/** A client. On a server without `getToken`, create one for each visitor: it holds one user's tokens. */
export function createClient(options?: ClientOptions): Client;
