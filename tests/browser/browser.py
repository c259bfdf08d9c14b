"""What the scripts beside it share: Debian's Chromium under Playwright, and what must hold on every page."""

import contextlib
import shutil
import sys

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PATIENCE = 20_000


@contextlib.contextmanager
def chromium():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        sys.exit(f"no browser to test the pages with: install the package chromium (looked for {', '.join(NAMES)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page(browser, url, scheme="light", width=1280):
    """A page of its own; fails where a script failed or the policy forbade something."""
    context = browser.new_context(
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
    )
    faults = []
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    opened.goto(url)
    yield opened
    context.close()
    assert not faults, faults


def wait_for_text(locator, text):
    expect(locator).to_contain_text(text, timeout=PATIENCE)


def accessible(page, what):
    """No serious or critical finding of axe-core, and nothing wider than the window."""
    found = Axe().run(page).response["violations"]
    serious = [
        (violation["id"], violation["help"], [node["html"][:200] for node in violation["nodes"]])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
    assert not serious, (what, serious)
    across, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert across <= window, f"{what}: {across} px across a window of {window}"
