"""A headless Chromium that opens a page from loopback and reports what the page did."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import web

NAMES = ("chromium", "chromium-browser", "google-chrome")


class _Handler(BaseHTTPRequestHandler):
    html = b""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/index.html" else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.html)

    def log_message(self, *arguments: Any) -> None:
        pass


@dataclass
class Opened:
    """A page that is open in the browser."""

    page: Page
    requests: list[str] = field(default_factory=list)
    """The paths of all requests."""
    complaints: list[str] = field(default_factory=list)
    """The messages of the console and of uncaught errors."""

    def clipboard(self) -> str:
        """The text that was copied."""
        text: str = self.page.evaluate("navigator.clipboard.readText()")
        return text


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser. Skips the test if none is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, html: str, **options: Any) -> Iterator[Opened]:
    """The page, open in a window with Playwright's `options`, such as its size and colours."""
    with web.serving(_Handler, html=html.encode()) as url:
        context = browser.new_context(**options)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        shown = Opened(context.new_page())
        shown.page.on("request", lambda request: shown.requests.append(request.url[len(url) :]))
        shown.page.on("console", lambda message: shown.complaints.append(message.text))
        shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        shown.page.goto(f"{url}/index.html")
        try:
            yield shown
        finally:
            context.close()
