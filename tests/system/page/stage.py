"""A headless browser, and pages in it that notice whatever goes wrong behind the scene."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.server import RunningServer

WIDE, NARROW = (1280, 860), (390, 844)
WAIT_MS = 20_000


class Stage:
    """One browser for all scenes; `page` gives each a profile of its own."""

    def __init__(self, browser: Path, shots: Path) -> None:
        from playwright.sync_api import sync_playwright

        self._shots = shots
        shots.mkdir(parents=True, exist_ok=True)
        self._driver = sync_playwright().start()
        # Its sandbox needs rights that root in a container does not have.
        sandbox = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        self._browser = self._driver.chromium.launch(executable_path=browser, args=sandbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
        self._driver.stop()

    @contextmanager
    def page(
        self,
        server: RunningServer,
        *,
        dark: bool = False,
        size: tuple[int, int] = WIDE,
        failures: tuple[str, ...] = (),
    ) -> Iterator[Any]:
        """The page, opened. `failures`: parts of console messages that belong to the scene.

        At the end nothing else may have failed, and nothing may have been asked of another host.
        """
        context = self._browser.new_context(
            color_scheme="dark" if dark else "light", viewport={"width": size[0], "height": size[1]}
        )
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        wrong: list[str] = []
        asked: set[str] = set()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        page.goto(server.url + "/")
        yield page
        context.close()
        unexpected = [text for text in wrong if not any(part in text for part in failures)]
        if unexpected or asked != {server.url}:
            raise AssertionError(f"console: {unexpected}; asked: {asked}")

    def shoot(self, page: Any, name: str, *, whole: bool = False) -> None:
        page.screenshot(path=self._shots / f"{name}.png", full_page=whole)
