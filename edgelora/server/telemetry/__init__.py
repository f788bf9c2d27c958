"""Observing the server: counters, Prometheus metrics, status, health, request records, running instances."""
