// The reader's own database: for the test, one in memory.

import { memoryAdapter } from "better-auth/adapters/memory";

export const database = memoryAdapter({ user: [], session: [], account: [], verification: [], jwks: [] });
