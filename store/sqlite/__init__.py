"""One SQLite file: its claim, its log, and the processes that share it."""
