"""The service under steady load while its workers are killed, and under more load than it can carry."""
