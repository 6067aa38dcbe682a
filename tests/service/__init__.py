"""The real service with real workers, over HTTP."""
