"""What Poolshift promises, tried: `unit` on single services, `service` on real server and worker processes."""
