"""The routes that change what is installed, or see files: every family over one manager."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import Route

from edgelora.runtime.interface import Runtime
from edgelora.server.api.adapters import AdaptersRoutes
from edgelora.server.api.groq import GroqRoutes
from edgelora.server.api.openai.files import FilesRoutes
from edgelora.server.api.together.part_routes import PartRoutes
from edgelora.server.api.together.projects import ProjectsRoutes, RegisteredModels
from edgelora.server.api.together.upload import TogetherRoutes
from edgelora.server.api.vllm import VllmRoutes
from edgelora.server.http.options import ServerOptions
from edgelora.server.management.job_routes import JobRoutes
from edgelora.server.management.manager import Manager


def management_routes(prefixes: Sequence[str], runtime: Runtime, options: ServerOptions) -> list[Route]:
    """Those that all API families share stand under each of `prefixes`."""
    manager = Manager.of(runtime, options)
    projects = ProjectsRoutes(manager, RegisteredModels())
    routes = [*projects.routes(), *PartRoutes(manager, projects).routes()]
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
