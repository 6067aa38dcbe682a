"""Several replicas on one real PostgreSQL, and the sources of the rollout."""
