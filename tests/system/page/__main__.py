"""`python -m tests.system.page [--shots DIR] [--browser PATH]`: the page in headless Chromium, over a fake base.

Every scene is a browser of its own against a server of its own. Exit code 0: all scenes went as they should, no script
failed, nothing was asked of another host. Where there is no browser, or no playwright, it says so and leaves with 0.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.page")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots (default: none are kept)")
    parser.add_argument("--browser", type=Path, help="the browser (default: what is on the PATH)")
    options = parser.parse_args(arguments)
    browser = options.browser or next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None or find_spec("playwright") is None:
        print("skipped: there is no browser" if browser is None else "skipped: playwright is not installed")
        return 0
    from tests.system.page.scenes import SCENES
    from tests.system.page.stage import Stage

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, Stage(Path(browser), options.shots or Path(scratch)) as stage:
        for number, scene in enumerate(SCENES):
            scene(stage, Path(scratch) / str(number))
            print(f"ok  {scene.__name__}: {scene.__doc__}", flush=True)
    print(f"{len(SCENES)} scenes in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
