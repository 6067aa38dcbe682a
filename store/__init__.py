"""Remembers programs, sessions, long runs and the rollout's history, in SQLite or PostgreSQL."""
