"""Front processes, which speak HTTP for the service so that its event loop need not (`WEB_CONCURRENCY`)."""
