"""The state of the migration: its phase, its checklist, and the use of each version by day."""
