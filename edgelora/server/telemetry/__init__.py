"""What the server tells of itself: counters, Prometheus metrics, status, health, request records, instances."""
