"""The page of `sd3tune watch` in Debian's chromium, driven by playwright.

Set SD3TUNE_SCREENSHOTS to a folder to keep the screenshots.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
PATIENCE_MS = 900_000  # nothing is measured: a busy machine takes its time
Open = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, once for all tests."""
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium: apt-get install chromium (scripts/test-all does as root)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Open]:
    """Opens an address in a fresh window; what its console complains of fails the test."""
    complaints: list[str] = []
    windows: list[Any] = []

    def complain(message: Any, expected: str) -> None:
        text = f"{message.text} {message.location}"
        if message.type in ("error", "warning") and not (expected and expected in text):
            complaints.append(text)

    def open_page(
        url: str, size: tuple[int, int] = (1440, 900), scheme: str = "light", expected: str = ""
    ) -> Any:
        window = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        windows.append(window)
        page = window.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: complain(m, expected))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for window in windows:
        window.close()
    assert not complaints


def until(page: Any, expression: str) -> None:
    """Waits until a JavaScript expression is true. playwright's own waiting evaluates text inside
    the page, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def keep(page: Any, name: str, whole: bool = False) -> None:
    """A screenshot, where somebody wants it."""
    if folder := os.environ.get("SD3TUNE_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=whole)
