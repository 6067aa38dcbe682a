"""What Poolshift promises, tried: `unit` on single parts, `service` on real server and worker processes."""
