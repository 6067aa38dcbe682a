"""Decides which version serves a call, hands it to that version's pool and records what happened."""
