"""The routes that change what is installed, or see files: every family over one manager."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import Route

from edgelora.server.adapters import AdaptersRoutes
from edgelora.server.files import FilesRoutes
from edgelora.server.groq import GroqRoutes
from edgelora.server.job_routes import JobRoutes
from edgelora.server.managing import Manager
from edgelora.server.options import ServerOptions
from edgelora.server.piece_routes import PieceRoutes
from edgelora.server.projects import ProjectsRoutes, Register
from edgelora.server.runtime import Runtime
from edgelora.server.together import TogetherRoutes
from edgelora.server.vllm import VllmRoutes


def management_routes(prefixes: Sequence[str], runtime: Runtime, options: ServerOptions) -> list[Route]:
    """Those that all API families share stand under each of `prefixes`."""
    manager = Manager.of(runtime, options)
    projects = ProjectsRoutes(manager, Register())
    routes = [*projects.routes(), *PieceRoutes(manager, projects).routes()]
    for prefix in prefixes:
        routes += [
            *FilesRoutes(manager).routes(prefix),
            *GroqRoutes(manager).routes(prefix),
            *TogetherRoutes(manager).routes(prefix),
            *AdaptersRoutes(manager).routes(prefix),
            *JobRoutes(manager.jobs).routes(prefix),
            *VllmRoutes(manager).routes(prefix),
        ]
    return routes
