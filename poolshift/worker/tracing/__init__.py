"""Traces of programs, inside a worker."""
