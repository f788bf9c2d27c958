"""Adapters and bases from one format to another, every conversion verified.

Imports `edgelora_models`. Needs numpy; never torch, never the runtime.
"""
