"""The service with front processes, real ones, over HTTP."""
