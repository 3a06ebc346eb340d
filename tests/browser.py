"""Pages opened in a real browser without a window, to see what a reader sees: errors, requests, axe's complaints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

Scheme = Literal["light", "dark"]
PHONE, DESK = (360, 740), (1280, 900)  # window sizes, CSS pixels


@dataclass
class Seen:
    """What a page did since it was opened."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright, whose event loop runs in this thread until it ends: one a file, so that
    other files may have loops of their own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed: sudo apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e .[dev]")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(
    chromium: Any, path: Path, *, scheme: Scheme = "light", window: tuple[int, int] = DESK, motion: str = "reduce"
) -> Iterator[tuple[Any, Seen]]:
    """A page opened from disk, in a context of its own: playwright's page, and what it does."""
    context = chromium.new_context(
        color_scheme=scheme, viewport={"width": window[0], "height": window[1]}, reduced_motion=motion
    )
    page, seen = context.new_page(), Seen()
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(path.as_uri())
    try:
        yield page, seen
    finally:
        context.close()


def leaves(seen: Seen, path: Path) -> list[str]:
    """Requests for anything but the page itself and pictures within it."""
    return [url for url in seen.requests if url.split("#")[0] != path.as_uri() and not url.startswith("data:")]


def scrolls_sideways(page: Any) -> bool:
    """Whether the window must be moved to the right to see all."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def complaints(page: Any) -> list[str]:
    """What axe-core calls serious or critical: one line each, with the first element it is about."""
    from axe_playwright_python.sync_playwright import Axe

    found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]


def walk(page: Any, *, steps: int) -> list[str]:
    """What Tab reaches, in order: the label or the text of each element."""
    shown = "e => e.getAttribute('aria-label') || e.textContent.trim().slice(0, 60) || e.tagName"
    reached = []
    for _ in range(steps):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(f"({shown})(document.activeElement)"))
    return reached
