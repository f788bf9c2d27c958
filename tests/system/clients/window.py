"""examples/desktop.html in headless Chromium: a page of another origin, which the server was told to let call."""

from __future__ import annotations

import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_SECONDS = 60.0
_PRESS = """<script>
document.getElementById("form").requestSubmit();
let before = null;
setInterval(() => {
  const now = document.getElementById("answer").textContent;
  if (now && now === before) fetch("/seen", { method: "POST", body: now });
  before = now;
}, 1000);
</script>"""
"""Presses the button, and tells what stands there once it no longer changes."""


def browser() -> str | None:
    """The browser of this machine, where it has one that can be driven."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass(frozen=True, slots=True)
class Window:
    origin: str
    _told: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def seen(self, executable: str, server: str) -> str:
        """What the page shows once its answer is there; nothing where none came. `server`: the API it calls."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [executable, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
            process = subprocess.Popen(
                [*command, f"{self.origin}/?server={server}/v1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                with suppress(queue.Empty):
                    return self._told.get(timeout=_SECONDS)
                return ""
            finally:
                process.terminate()
                process.wait(timeout=30)


@contextmanager
def page(path: Path) -> Iterator[Window]:
    """The page on an origin of its own."""
    content, told = path.read_bytes() + _PRESS.encode(), queue.SimpleQueue[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(content)

        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Window(f"http://127.0.0.1:{server.server_address[1]}", told)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
