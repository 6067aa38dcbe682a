"""Speaks HTTP. FastAPI and Starlette appear only here."""
