"""A headless Chromium for what a page does."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SIZE = {"width": 1280, "height": 900}
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--js-flags=--no-enable-lazy-source-positions")
"""The last one: with a debugger beside it, which Playwright is, Chromium reads a script anew for each error in it that
is caught, to know its line. That doubles the time of plotly's script, and nobody who opens a page has a debugger."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A started browser, of Playwright's types."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()
