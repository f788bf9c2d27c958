"""The values and rules everything else shares: settings, requests, events, errors, files and the machine.

Owns no state and starts no thread. Imports `edgelora_models` and nothing else of the project.
"""
