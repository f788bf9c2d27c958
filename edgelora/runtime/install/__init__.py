"""The ways an adapter or a base comes in: a path, an upload, a hub repository, an installed version."""
