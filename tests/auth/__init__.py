"""Permissions and owners, tested on a real service with real keys."""
