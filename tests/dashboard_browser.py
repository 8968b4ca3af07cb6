"""A headless Chromium on the dashboard, that notes what a user would not want to see."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PATIENCE_MS = 60_000

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""Of this machine; Playwright's own is never fetched."""

SCREENSHOTS = os.environ.get("SERVECAST_SCREENSHOTS")
"""Folder that pictures of the pages go to; the documentation's come from there."""

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--force-color-profile=srgb",
    "--font-render-hinting=none", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip

# Nothing is being computed, drawn or waited for.
SETTLED = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  if (!app || app.dataset.testScriptState !== 'notRunning') return false;
  if (document.querySelector('[data-stale=true], [data-testid=stSkeleton]')) return false;
  const seen = e => e.offsetParent !== null;
  const main = document.querySelector('[data-testid=stMain]');
  const cancel = [...main.querySelectorAll('button')].some(
    b => seen(b) && b.innerText.trim().endsWith('Cancel'));
  const charts = [...document.querySelectorAll('[data-testid=stPlotlyChart]')].filter(seen);
  return !cancel && charts.every(c => c.querySelector('.main-svg'));
}"""

# Wider than the window, or cut off: text of metrics, buttons and tabs.
CUT_OFF = """() => {
  const found = [];
  if (document.documentElement.scrollWidth > window.innerWidth)
    found.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const wide = '[data-testid=stMetricValue], [data-testid=stMetricLabel], [data-testid=stMetricDelta]';
  for (const e of document.querySelectorAll(wide))
    for (const part of [e, ...e.querySelectorAll('*')])
      if (part.offsetParent !== null && part.scrollWidth > part.clientWidth + 1
          && getComputedStyle(part).overflow !== 'visible' && part.clientWidth > 1)
        found.push(`cut off: ${e.innerText}`);
  const main = document.querySelector('[data-testid=stMain]');
  if (main.scrollWidth > main.clientWidth + 1) found.push('the page scrolls sideways');
  return [...new Set(found)];
}"""


class Window:
    """A page of the browser, alone in its context."""

    def __init__(self, browser: Browser, home: str, **context: Any) -> None:
        self.home = home
        self.complaints: list[str] = []
        options: dict[str, Any] = {"viewport": {"width": 1400, "height": 1000}, **context}
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.context.set_default_timeout(PATIENCE_MS)
        # Only watched: a browser whose requests are held and let go keeps nothing that it fetched.
        self.context.on("request", self._own)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._noted)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def _own(self, request: Request) -> None:
        if not request.url.startswith((self.home, "data:", "blob:")):
            self.complaints.append(f"asks {request.url}")

    def _noted(self, message: ConsoleMessage) -> None:
        # Streamlit's client looks for the server below the page's path first, and then at the root.
        probe = message.location["url"].endswith(("/_stcore/health", "/_stcore/host-config"))
        if message.type == "error" and not ("404" in message.text and probe):
            self.complaints.append(f"console: {message.text} {message.location['url']}")

    def open(self, path: str = "/") -> Window:
        """Goes to an address of the dashboard, and waits for all of it."""
        self.page.goto(self.home + path)
        return self.settled()

    def settled(self) -> Window:
        """Waits until nothing changes any more."""
        until = time.monotonic() + PATIENCE_MS / 1000
        quiet = 0
        while quiet < 3:
            assert time.monotonic() < until, f"{self.page.url} does not come to rest"
            self.page.wait_for_function(SETTLED)
            before = self.page.locator("[data-testid=stMain]").inner_text()
            self.page.wait_for_timeout(120)
            same = self.page.locator("[data-testid=stMain]").inner_text() == before
            quiet = quiet + 1 if same and self.page.evaluate(SETTLED) else 0
        return self

    def go(self, title: str) -> Window:
        """Follows the navigation."""
        before = self.page.url
        self.page.get_by_test_id("stTopNavLink").filter(has_text=title).first.click()
        self.page.wait_for_function("before => location.href !== before", arg=before)
        return self.settled()

    def turn(self, knob: str, value: str) -> Window:
        """Types a number into a knob of the sidebar."""
        field, before = self.page.get_by_role("spinbutton", name=knob), self.page.url
        field.fill(value)
        field.press("Enter")
        self.page.wait_for_function("before => location.href !== before", arg=before)
        return self.settled()

    def metrics(self) -> dict[str, str]:
        """Values of all metrics in sight, by label."""
        found = {}
        for metric in self.page.get_by_test_id("stMetric").all():
            label = metric.get_by_test_id("stMetricLabel").inner_text().strip()
            found[label] = metric.get_by_test_id("stMetricValue").inner_text().strip()
        return found

    def errors(self) -> list[str]:
        """The sentences in red."""
        alerts = self.page.get_by_test_id("stAlertContentError").all()
        return [alert.inner_text().strip() for alert in alerts]

    def query(self) -> str:
        """What stands behind the path of the address."""
        return urlsplit(self.page.url).query

    def cut_off(self) -> list[str]:
        """What does not fit."""
        found: list[str] = self.page.evaluate(CUT_OFF)
        return found

    def shoot(self, folder: Path, name: str) -> Path:
        """Takes a picture of what is in sight, with few enough colours to be small."""
        file = folder / f"{name}.png"
        self.page.mouse.move(0, 0)
        self.page.screenshot(path=file)
        _shrink(file)
        return file


def _shrink(file: Path) -> None:
    from PIL import Image

    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(
            192, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    small.save(file, optimize=True)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
