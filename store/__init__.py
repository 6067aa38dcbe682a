"""Remembers programs, sessions and the rollout's history, in SQLite or PostgreSQL."""
