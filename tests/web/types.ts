// Read by the TypeScript compiler only: what the types of `api.js` must allow and, at each `@ts-expect-error`, refuse.

import { createClient } from "../../src/web/api.js";
import type { Answer, ApiError, Client, Task, User } from "../../src/web/api.js";

/** `authClient` of Better Auth and `auth.api`, as far as their types matter here. */
declare const authClient: {
  token(): Promise<
    | { data: { token: string }; error: null }
    | { data: null; error: { code?: string; message?: string; status: number; statusText: string } }
  >;
};
declare const auth: { api: { getToken(context: { headers: Headers }): Promise<{ token: string }> } };

export const ofBetterAuth = createClient({ baseUrl: "https://tasks.example", getToken: () => authClient.token() });
export const onServer = createClient({ getToken: () => auth.api.getToken({ headers: new Headers() }) });
export const ofString = createClient({ getToken: () => "token" });
export const ofNobody = [createClient({ getToken: () => null }), createClient({ getToken: async () => undefined })];
export const thatThrows = createClient({ getToken: () => { throw new Error("offline"); } });
export const inTab = createClient({ storage: sessionStorage, onUnauthorized: (error: ApiError) => void error.detail });
export const inBrowser: Client = createClient({ storage: () => localStorage });
export const inMemory = [createClient(), createClient({}), createClient({ storage: null })];

export async function titles(signal: AbortSignal): Promise<string[]> {
  const { data, error } = await inTab.tasks.list({ completed: false, limit: 10 }, { signal });
  if (error) return [error.detail];
  const found: string[] = data.map((task: Task) => task.title);
  for await (const { data: task, error } of inTab.tasks.list()) found.push(error ? error.title : task.title);
  return found;
}

export async function everyMethod(options: { signal?: AbortSignal }): Promise<void> {
  const known: boolean = await inTab.hasSession();
  const user: Answer<User> = await inTab.register({ email: "ada@example.com", password: "…" }, options);
  const { data: tokens } = await inTab.login({ email: "ada@example.com", password: "…" }, options);
  const seconds: number | undefined = tokens?.expires_in;
  const done: Answer<null>[] = [
    await inTab.changePassword({ currentPassword: "…", newPassword: "…" }, options),
    await inTab.deleteAccount({ password: "…" }, options),
    await inTab.logout(options),
    await inTab.logoutAll(options),
    await inTab.tasks.remove("id", options),
  ];
  const tasks: Answer<Task>[] = [
    await inTab.tasks.create({ title: "Buy milk", description: null }, options),
    await inTab.tasks.get("id", options),
    await inTab.tasks.update("id", { completed: true }, options),
    await inTab.tasks.complete("id", undefined, options),
  ];
  void [known, user, seconds, done, tasks];
}

export async function refused(): Promise<void> {
  const { data, error } = await inTab.me();
  // @ts-expect-error Unless the error is looked at, there may be no data.
  void data.email;
  if (!error) void data.email;
  if (data) void data.email;
  if (!data) void error.detail;
  // @ts-expect-error A password is needed.
  await inTab.login({ email: "ada@example.com" });
  // @ts-expect-error The owner of a task cannot be set.
  await inTab.tasks.update("id", { user_id: "somebody" });
  // @ts-expect-error The server knows no such filter.
  await inTab.tasks.list({ colour: "red" });
  // @ts-expect-error A number is no token.
  createClient({ getToken: () => 7 });
  // @ts-expect-error The client has no such method.
  void inTab.refresh;
}
