// Read by the TypeScript compiler alone: what the types of `api.js` must allow and, at each `@ts-expect-error`, refuse.

import { createClient } from "../../src/web/api.js";
import type { ApiError, Task } from "../../src/web/api.js";

const authClient = { token: async () => ({ data: { token: "…" }, error: null }) };
export const ofBetterAuth = createClient({ baseUrl: "https://tasks.example", getToken: () => authClient.token() });
export const inSession = createClient({ storage: sessionStorage, onUnauthorized: (error: ApiError) => void error.detail });

export async function titles(): Promise<string[]> {
  const { data, error } = await inSession.tasks.list({ completed: false, limit: 10 });
  if (error) return [error.detail];
  const found: string[] = data.map((task: Task) => task.title);
  for await (const { data: task, error } of inSession.tasks.list()) found.push(error ? error.title : task.title);
  return found;
}

export async function refused(): Promise<void> {
  const { data, error } = await inSession.me();
  // @ts-expect-error Without a look at the error there may be no data.
  void data.email;
  if (!error) void data.email;
  // @ts-expect-error A password is needed.
  await inSession.login({ email: "ada@example.com" });
  // @ts-expect-error A task's owner is not to be chosen.
  await inSession.tasks.update("id", { user_id: "somebody" });
  // @ts-expect-error A filter that the server does not know.
  await inSession.tasks.list({ colour: "red" });
}
