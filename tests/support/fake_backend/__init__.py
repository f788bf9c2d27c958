"""A scripted backend for tests: answers known beforehand, no model, every rule of the protocol checked."""
