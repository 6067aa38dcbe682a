"""The replicas of one machine: several processes, each the whole service, behind one address (`WEB_CONCURRENCY`)."""
