"""`python docs/images/make_screenshot.py`: the page of a real server answering with three adapters, as page.png.

Starts `edgelora serve` on the built-in base in an empty home. Needs an installed Chromium and `pip install
"edgelora[page]"`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).with_name("page.png")
QUESTION = "What is hypertension?"


def serve(home: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port; return its process and its URL."""
    environment = os.environ | {"EDGELORA_HOME": home, "EDGELORA_OFFLINE": "1"}
    command = [sys.executable, "-m", "edgelora", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"http://localhost:\d+", line):
            return process, match[0]
    raise SystemExit("The server did not start.")


def shoot(url: str) -> None:
    """Ask three models the same question and save what the page shows."""
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        browser = driver.chromium.launch(executable_path=browser_path, args=sandbox)
        page = browser.new_page(viewport={"width": 1280, "height": 640}, color_scheme="light")
        page.goto(url + "/")
        for _ in range(2):
            page.click("#add")
        for column, model in enumerate(("edgelora-tiny", "medical-faq", "pirate")):
            page.locator(".column select").nth(column).select_option(model)
        page.fill("#prompt", QUESTION)
        page.press("#prompt", "Enter")
        page.wait_for_function("document.querySelectorAll('.column .facts').length == 3")
        page.wait_for_selector("#send:enabled")
        page.wait_for_timeout(2500)  # the panel beside the answers is refreshed every two seconds
        page.screenshot(path=TARGET)
        browser.close()


def main() -> None:
    """Start a server, take the picture, stop the server."""
    with tempfile.TemporaryDirectory() as home:
        process, url = serve(home)
        try:
            shoot(url)
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
