"""The page at /: static files under fixed names, with headers that restrict what a browser does with them.

The files hold no secret and call the same API as any other client; where that needs a key, the page asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from edgelora.server.http.endpoint import Access, Endpoint

FOLDER = Path(__file__).with_name("static")

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The file name and the media type by path."""
PAGE_PATHS = frozenset(FILES)
_PUNCTUATION = str.maketrans("", "", "/.")

HEADERS = {
    # Allows these files and this server's own API; no inline script or style, and no frame around the page.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    body: bytes
    media_type: str

    async def __call__(self, _request: Request) -> Response:
        return Response(self.body, headers={**HEADERS, "content-type": self.media_type})


def page_endpoints() -> tuple[Endpoint, ...]:
    """Return an endpoint for each file. The files, a few kilobytes, are read once."""
    return tuple(_file_endpoint(path, name, media_type) for path, (name, media_type) in FILES.items())


def _file_endpoint(path: str, name: str, media_type: str) -> Endpoint:
    return Endpoint(
        "GET", path, PageFile((FOLDER / name).read_bytes(), media_type).__call__, Access.OPEN,
        f"page{path.title().translate(_PUNCTUATION)}",
        "Retrieve a file of the web page", reply_media=media_type.partition(";")[0],
    )  # fmt: skip
