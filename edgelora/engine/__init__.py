"""The engine: live requests, the scheduler, sampling, and the one thread that calls the backend.

Imports `backends.base`, `store` and what stands below them; it never knows which backend it drives.
"""
