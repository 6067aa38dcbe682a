"""Programs, sessions, jobs and LMs: in memory, written behind to the store."""
