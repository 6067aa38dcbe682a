"""Opens the parts of the service, each with what it needs; `app.lifespan` has their order."""
