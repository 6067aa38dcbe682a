"""The whole story of a newcomer, as docs/tutorial.md tells it (make test-story)."""
