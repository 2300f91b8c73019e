"""Pages of ours in a real browser: opened from disk in Debian's Chromium, watched in what they print and ask for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

WIDE, NARROW = 1280, 400  # pixels: a desk and a phone
PATIENCE_MS = 120_000  # for what never comes: machines are shared and slow
expect.set_options(timeout=PATIENCE_MS)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium with an empty profile of its own; tests without one are skipped."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=_FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """An open page, with what it printed to the console, threw and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def finish(self) -> None:
        """Nothing was wrong with it, and it asked for nothing beside the file itself."""
        assert self.said == []
        assert [url for url in self.requests if not url.startswith(("data:", "blob:"))] == [self.page.url.split("#")[0]]

    def fits(self) -> None:
        """Nothing is wider than the window: nobody has to scroll sideways."""
        widths = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1], f"{widths[0]} px of content in a window of {widths[1]} px"

    def keep(self, name: str) -> None:
        """A picture of the window in artifacts/pages, to look at: none is compared, since fonts differ by machine."""
        folder = Path(__file__).resolve().parents[2] / "artifacts" / "pages"
        self.page.screenshot(path=folder / f"{name}-{(self.page.viewport_size or {}).get('width', 0)}.png")

    def serious(self) -> list[str]:
        """What axe-core finds of serious or critical impact, with the elements."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{finding['id']}: {finding['help']}: {node['html'][:200]}"
            for finding in found
            if finding["impact"] in ("serious", "critical")
            for node in finding["nodes"]
        ]


@contextlib.contextmanager
def opened(browser: Browser, file: Path, width: int = WIDE, **context: Any) -> Iterator[Opened]:
    """A file opened from disk in a fresh profile; `context` goes to Playwright's new_context."""
    fresh = browser.new_context(viewport={"width": width, "height": 800}, **context)
    try:
        fresh.set_default_timeout(PATIENCE_MS)
        seen = Opened(fresh.new_page())
        seen.page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
        fresh.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(file.resolve().as_uri())
        yield seen
    finally:
        fresh.close()
