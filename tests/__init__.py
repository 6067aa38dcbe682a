"""Tests of Poolshift's promises: `unit` on single services, `service` on real server and worker processes."""
