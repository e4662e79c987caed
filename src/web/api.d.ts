/** Types of `api.js`, the browser's side of latchkey. */

/** A user as the server tells it. */
export interface User {
  id: string;
  /** `null` for a user of Better Auth, of whom the server knows the id alone. */
  email: string | null;
  is_active: boolean;
  /** RFC 3339, UTC. */
  created_at: string | null;
}

/** A task as the server tells it. */
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

/** What a login gives. The client keeps it already: there is no need to store it. */
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
  /** The status of the answer; 0 where none came. */
  status: number;
  title: string;
  /** A sentence for a person. */
  detail: string;
  /** Of a 422: each broken rule. `field` is empty for the body as a whole. */
  errors: { field: string; detail: string }[];
  /** Seconds to wait, of a 429 or 503. */
  retryAfter: number | null;
}

/** What every call resolves to; none rejects. */
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

/** Web Storage's shape; `sessionStorage`, `localStorage` and anything asynchronous will do. */
export interface TokenStorage {
  getItem(name: string): string | null | Promise<string | null>;
  setItem(name: string, value: string): void | Promise<void>;
  removeItem(name: string): void | Promise<void>;
}

/** What Better Auth's `authClient.token()` resolves to. */
export interface ExternalToken {
  data: { token: string } | null;
  error?: { message?: string; status?: number; statusText?: string } | null;
}

export interface ClientOptions {
  /** The server's address; the page's own origin where not given. */
  baseUrl?: string;
  /**
   * Brings the access tokens where somebody else issues them: `getToken: () => authClient.token()`. Asked once for all
   * calls that wait, again 30 s before the token's `exp` and after a 401.
   */
  getToken?: () => Promise<ExternalToken | string | null> | ExternalToken | string | null;
  /** Where the refresh token is kept; in memory where not given. The access token is always kept in memory alone. */
  storage?: TokenStorage;
  /** Called when the user has to log in again. */
  onUnauthorized?: (error: ApiError) => void;
}

export interface Client {
  /** Makes the account; does not log in. Never repeated. */
  register(credentials: { email: string; password: string }): Promise<Answer<User>>;
  login(credentials: { email: string; password: string }): Promise<Answer<Tokens>>;
  /** Ends this session. The tokens are forgotten in any case; an error says that the server may not know yet. */
  logout(): Promise<Answer<null>>;
  /** Ends all sessions of the user. As `logout`. */
  logoutAll(): Promise<Answer<null>>;
  me(): Promise<Answer<User>>;
  /** Ends every other session. */
  changePassword(passwords: { currentPassword: string; newPassword: string }): Promise<Answer<null>>;
  /** Deletes the user, the tasks and the sessions. */
  deleteAccount(confirmation: { password: string }): Promise<Answer<null>>;
  tasks: {
    list(filter?: TaskFilter): Page;
    create(task: { title: string; description?: string | null }): Promise<Answer<Task>>;
    get(id: string): Promise<Answer<Task>>;
    update(
      id: string,
      changes: { title?: string; description?: string | null; completed?: boolean },
    ): Promise<Answer<Task>>;
    /** Sets the value, or toggles it where none is given. */
    complete(id: string, completed?: boolean): Promise<Answer<Task>>;
    remove(id: string): Promise<Answer<null>>;
  };
}

export function createClient(options?: ClientOptions): Client;
