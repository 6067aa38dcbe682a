"""Remembers programs, sessions, jobs and the rollout's history, in SQLite or PostgreSQL."""
