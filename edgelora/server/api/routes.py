"""The management endpoints of every API, over one manager."""

from __future__ import annotations

from edgelora.server.api.adapters import AdaptersRoutes
from edgelora.server.api.groq import GroqRoutes
from edgelora.server.api.openai.files import FilesRoutes
from edgelora.server.api.together.part_routes import PartRoutes
from edgelora.server.api.together.projects import ProjectsRoutes, RegisteredModels
from edgelora.server.api.together.upload import TogetherRoutes
from edgelora.server.api.vllm import VllmRoutes
from edgelora.server.http.endpoint import Endpoint
from edgelora.server.management.job_routes import JobRoutes
from edgelora.server.management.manager import Manager


def management_endpoints(manager: Manager) -> tuple[Endpoint, ...]:
    """Return the endpoints under /v1 of every API."""
    return (
        *FilesRoutes(manager).endpoints(),
        *GroqRoutes(manager).endpoints(),
        *TogetherRoutes(manager).endpoints(),
        *AdaptersRoutes(manager).endpoints(),
        *JobRoutes(manager.jobs).endpoints(),
        *VllmRoutes(manager).endpoints(),
    )


def project_endpoints(manager: Manager) -> tuple[Endpoint, ...]:
    """Return the endpoints under /v2, which Together's 3.x client calls."""
    projects = ProjectsRoutes(manager, RegisteredModels())
    return (*projects.endpoints(), *PartRoutes(manager, projects).endpoints())
