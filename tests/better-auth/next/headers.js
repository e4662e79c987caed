// In place of Next.js, which is large: `headers()` by the same means, for the test's own visitors.

import { AsyncLocalStorage } from "node:async_hooks";

export const visitor = new AsyncLocalStorage();
export const headers = async () => visitor.getStore();
