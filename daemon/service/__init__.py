"""The service: configuration, readiness, health, logs, and the life of the whole daemon."""
